"""The page of a service in a real browser: what people do there, and that nothing leaves it. Skipped where there is no
Chromium."""

import re
import shutil
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from test_serving import service_for
from test_student_engine import write_skilled, write_student

from p2pz_ray.config.serve import ServeConfig
from p2pz_ray.serving.engines import ServedEditor
from p2pz_ray.serving.web.api import build_app

pytest.importorskip("playwright")
from axe_playwright_python.base import AXE_SCRIPT
from playwright.sync_api import Browser, Page, sync_playwright

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
QUIET = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
PICTURE = Path(__file__).parents[1] / "p2pz_ray" / "mini" / "tasks.jpg"


@dataclass
class Site:
    """A service of the miniature and a student of random weights, in a thread; `steps` counts pictures × steps."""

    url: str
    steps: list[int] = field(default_factory=list)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    words = {"source": "cat", "target": "dog", "count": 20}
    given = {
        "edits": {name: {**words, "target": name[4:]} for name in ("cat2dog", "cat2fox", "cat2horse")},
        "students": [
            str(write_student(tmp_path_factory.mktemp("student"))),
            str(write_skilled(tmp_path_factory.mktemp("skilled"), ["cat2horse"])),
        ],
        "inversion": {"steps": 4},
        "words": {"count": 20},
    }
    service = service_for(ServeConfig.model_validate(given))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    found = Site(f"http://127.0.0.1:{port}/")
    assert isinstance(service.editor, ServedEditor)
    service.editor.metrics.steps.inc = lambda count: found.steps.append(count)  # type: ignore[method-assign]
    server = uvicorn.Server(uvicorn.Config(build_app(service), port=port, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    yield found
    server.should_exit = True
    thread.join(10)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("there is no Chromium on this machine")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        yield browser
        browser.close()


@pytest.fixture
def page(request: pytest.FixtureRequest, site: Site, browser: Browser) -> Iterator[Page]:
    """The page with its first scene; the test fails where a request left the origin or the console had an error."""
    width, scheme = getattr(request, "param", (1280, "light"))
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme, has_touch=width < 500)
    page, wrong = context.new_page(), []
    page.on("request", lambda sent: None if sent.url.startswith((site.url, "data:")) else wrong.append(sent.url))
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on(
        "console",
        lambda told: wrong.append(told.text) if told.type == "error" and "status of 4" not in told.text else None,
    )
    page.goto(site.url)
    page.wait_for_selector("#examples li:nth-child(6)")
    page.wait_for_selector("#history li")  # the student's, made at once
    yield page
    context.close()
    assert wrong == []


def fact(page: Page, name: str) -> str:
    return page.locator("#facts div", has_text=name).locator("dd").inner_text()


def by_model(page: Page) -> None:
    page.get_by_text("mini, 8 steps").click()


def after(page: Page) -> str:
    return page.locator("#stage img").nth(1).get_attribute("src") or ""


@pytest.mark.parametrize("page", [(1280, "light"), (1280, "dark"), (390, "light"), (390, "dark")], indirect=True)
def test_everybody_can_use_the_page_at_any_width_and_in_the_dark(page: Page) -> None:
    by_model(page)
    page.click("#go")
    page.wait_for_selector("#history li:nth-child(2)")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.evaluate(AXE_SCRIPT)
    found: Any = page.evaluate("axe.run()")
    assert [one["id"] for one in found["violations"] if one["impact"] in ("serious", "critical")] == []


def test_an_edit_shows_its_progress_its_cost_and_who_made_it(page: Page) -> None:
    assert fact(page, "Model") == "student"
    by_model(page)
    page.fill("#strength", "0.5")  # a change of strength edits anew
    page.wait_for_selector("#step:text-matches('Step [0-9]+ of 8')")
    page.wait_for_selector("#history li:nth-child(2)")
    assert [fact(page, name) for name in ("Model", "Edit", "Strength", "Seed", "Steps")] == [
        "mini", "cat2dog", "0.5", "0", "8",
    ]  # fmt: skip
    with page.expect_download() as saved:
        page.click("#save")
    assert saved.value.suggested_filename == "cat2dog-mini-0.png"
    made = after(page)
    page.click("#undo")
    assert fact(page, "Model") == "student"
    assert after(page) != made


def test_the_student_follows_the_strength_while_it_is_moved(page: Page) -> None:
    page.locator("input[name=edit][value=cat2horse]").evaluate("input => input.click()")
    page.wait_for_selector("#history li:nth-child(2)")  # the student's first look
    strength, entries = page.locator("#strength"), page.locator("#history li").count()
    shown = {after(page)}
    for value in ("0.3", "0.6"):
        with page.expect_response("**/v1/edits") as told:
            strength.evaluate(
                "(slider, value) => { slider.value = value; slider.dispatchEvent(new Event('input')); }", value
            )
        made = told.value.json()
        assert (made["model"], made["data"][0]["strength"]) == ("student", float(value))
        source = f"data:image/png;base64,{made['data'][0]['b64_json']}"
        page.wait_for_function("source => document.querySelectorAll('#stage img')[1].src === source", arg=source)
        shown.add(source)
    assert len(shown) == 3
    assert page.locator("#history li").count() == entries  # what is passed on the way is not kept


def test_the_slider_moves_by_mouse_and_by_key(page: Page) -> None:
    slider = page.get_by_label("Before to the left, After to the right")
    box = slider.bounding_box()
    assert box is not None
    page.mouse.click(box["x"] + box["width"] * 0.25, box["y"] + box["height"] / 2)
    assert float(slider.input_value()) == pytest.approx(25, abs=3)
    there = float(slider.input_value())
    slider.press("ArrowRight")
    assert float(slider.input_value()) == there + 1
    assert page.locator(".slide").evaluate("it => it.style.getPropertyValue('--at')") == f"{there + 1:g}%"


def test_a_brushed_mask_confines_the_edit(page: Page) -> None:
    by_model(page)
    page.click("#paint")
    box = page.locator("#brush").bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + box["width"] * 0.4, box["y"] + box["height"] * 0.5)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.6, box["y"] + box["height"] * 0.5, steps=4)
    page.mouse.up()
    page.click("#go")
    page.wait_for_selector("#history li:nth-child(2)")
    script = """async () => {
      const pixels = await Promise.all([...document.querySelectorAll("#stage img")].map(async image => {
        const canvas = new OffscreenCanvas(64, 64), pen = canvas.getContext("2d");
        await image.decode(); pen.drawImage(image, 0, 0); return pen.getImageData(0, 0, 64, 64).data;
      }));
      const rows = new Set();
      pixels[0].forEach((value, at) => { if (value !== pixels[1][at]) rows.add(at >> 8); });
      return [...rows];
    }"""
    rows = page.evaluate(script)
    assert rows
    assert min(rows) > 20
    assert max(rows) < 44


def test_cancel_stops_the_steps(page: Page, site: Site) -> None:
    by_model(page)
    page.click("summary")
    page.fill("#steps", "200")
    before = len(site.steps)
    page.click("#go")
    page.wait_for_selector("#step:text-matches('Step [0-9]+ of 400')")
    page.click("#cancel")
    page.wait_for_selector("#cancel", state="hidden")
    page.fill("#steps", "2")  # the engine is free again
    page.click("#go")
    page.wait_for_selector("#history li:nth-child(2)")
    assert len(site.steps) - before < 200
    assert page.inner_text("#said") == ""


def test_pictures_come_by_file_paste_and_lot_and_what_is_none_is_said_in_a_sentence(page: Page) -> None:
    page.set_input_files("#file", PICTURE)
    page.wait_for_selector("#history li:nth-child(2)")
    page.set_input_files("#file", {"name": "a.txt", "mimeType": "text/plain", "buffer": b"text"})
    assert re.fullmatch(r"This file is not a picture: .+\.", page.inner_text("#said"))
    page.set_input_files("#file", {"name": "a.png", "mimeType": "image/png", "buffer": b"nothing"})
    page.wait_for_selector("#said:text-matches('The image can.t be used: .+')")
    page.evaluate(
        """async () => {
          const image = document.querySelector("#examples img"), canvas = new OffscreenCanvas(64, 64);
          canvas.getContext("2d").drawImage(image, 0, 0);
          const data = new DataTransfer(), blob = await canvas.convertToBlob();
          data.items.add(new File([blob], "a.png", { type: "image/png" }));
          document.dispatchEvent(new ClipboardEvent("paste", { clipboardData: data }));
        }"""
    )
    page.wait_for_selector("#history li:nth-child(3)")
    page.select_option("#kind", "zebra")
    page.click("#draw")
    page.wait_for_selector("#history li:nth-child(4)")
    assert "zebra" in fact(page, "Caption")


def test_two_words_of_ones_own_and_a_link_that_repeats_the_edit(page: Page, site: Site) -> None:
    page.get_by_text("two words of yours").click()
    page.click("#go")
    page.wait_for_selector("#said:text-matches('Write two words.+')")
    page.fill("#from", "cat")
    page.fill("#to", "rabbit")
    page.click("#go")
    page.wait_for_selector("#history li:nth-child(2)")
    assert fact(page, "Edit") == "cat to rabbit"
    made = after(page)
    page.click("#link")
    page.wait_for_selector("#copied:text-matches('.+')")
    link = page.evaluate("location.href")
    again = page.context.new_page()
    again.goto(link)
    again.wait_for_selector("#examples li:nth-child(6)")
    again.click("#go")
    again.wait_for_selector("#history li")
    assert after(again) == made


def test_student_and_model_are_compared(page: Page) -> None:
    page.click("#compare")
    page.wait_for_selector("#stage img[alt='The model\\'s']")
    assert page.locator("#history li").count() == 3
