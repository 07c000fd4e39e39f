import ast
import base64
import io
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import fsspec
import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from small_run import TARGETS, camouflaged, examples, moved, pair, write_run, write_truth

import p2pz_ray.evaluation
from p2pz_ray.amount import number
from p2pz_ray.cli import main
from p2pz_ray.commit.run import Run
from p2pz_ray.errors import ConfigError, P2PZError
from p2pz_ray.evaluation import matched
from p2pz_ray.evaluation.matched import Matched
from p2pz_ray.evaluation.scores import ScoreFolder
from p2pz_ray.evaluation.tally import KEPT_IDS, busy_seconds, evenly
from p2pz_ray.picture.codec import DecodePolicy, decode, encode
from p2pz_ray.report import cards
from p2pz_ray.report.charts import rates_over_time
from p2pz_ray.report.comparison import write_comparison
from p2pz_ray.report.report import write_report


class Page(HTMLParser):
    """A report as a browser takes it: its elements with their attributes, and its visible text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self._texts: list[str] = []
        self._within = ""
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        self._texts.append(" ")
        self._within = tag

    def handle_endtag(self, tag):
        self._within = ""
        self._texts.append(" ")

    def handle_data(self, data):
        if self._within not in ("script", "style"):
            self._texts.append(data)

    @property
    def text(self) -> str:
        return " ".join("".join(self._texts).split())

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    def pictures(self, name: str) -> list[np.ndarray]:
        sources = [img["src"] for img in self.all("img") if img["alt"] == name]
        return [np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))) for uri in sources]


def reported(folder: Path, **options) -> Page:
    uri = write_report(str(folder), **options)
    assert Path(uri) == folder / "report/index.html"
    return Page(Path(uri).read_text("utf-8"))


def good(example, edit="cat2dog", **more):
    return pair(example.id, example.picture(), example.picture(TARGETS[edit]), edit=edit, **more)


def test_every_pair_is_shown_as_source_edited_and_truth_with_its_caption(tmp_path):
    scenes = examples(3)
    edited = [np.full((64, 64, 3), 40 * i, np.uint8) for i in range(3)]
    rows = [pair(s.id, s.picture(), edited[i], caption=f"caption {i}") for i, s in enumerate(scenes)]
    write_run(tmp_path / "run", [rows[:2], rows[2:]])
    write_truth(tmp_path / "world.parquet", scenes)
    page = reported(tmp_path / "run", truth_uri=str(tmp_path / "world.parquet"))
    order = [Run(str(tmp_path / "run")).manifests[i].rows for i in range(2)]
    assert order == [2, 1]
    np.testing.assert_array_equal(page.pictures("source"), [s.picture() for s in scenes])
    np.testing.assert_array_equal(page.pictures("edited"), edited)
    np.testing.assert_array_equal(page.pictures("truth"), [s.picture("dog") for s in scenes])
    assert all(f"caption {i}" in page.text and scenes[i].id in page.text for i in range(3))
    assert "cat → dog" in page.text
    assert "Finished: 2 of 2" in page.text


def test_the_page_is_one_file_that_asks_nothing_of_any_network(tmp_path):
    write_run(tmp_path, [[good(s) for s in examples(2)]], config={"input": {"uri": "https://example.com/photos"}})
    page = reported(tmp_path)
    for tag, attributes in page.elements:
        assert tag not in ("link", "iframe", "object", "base"), tag
        for name in ("src", "href", "srcset", "action", "poster"):
            assert (attributes.get(name) or "data:").startswith("data:")
    [policy] = [meta["content"] for meta in page.all("meta") if "http-equiv" in meta]
    assert "default-src 'none'" in policy
    html = (tmp_path / "report/index.html").read_text("utf-8")
    assert "url(" not in html
    assert "prefers-color-scheme: dark" in html


def test_whatever_users_wrote_arrives_as_text_and_never_as_markup(tmp_path):
    evil = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'&$title"
    scene = examples(1)[0]
    rows = [
        pair(f"a{evil}", scene.picture(), scene.picture("dog"), caption=f"b{evil}"),
        pair(f"c{evil}", status="error", error=f"d{evil}"),
        pair(f"e{evil}", scene.picture(), scene.picture("dog"), status="flagged", error=f"f{evil}"),
    ]
    edits = {"cat2dog": {"source": f"g{evil}", "target": f"h{evil}"}}
    write_run(tmp_path, [rows], config={"edits": edits, "input": {"uri": f"i{evil}"}, "model": f"j{evil}"})
    page = reported(tmp_path)
    assert len(page.all("script")) == 1
    assert not [name for _, attributes in page.elements for name in attributes if name.startswith("on")]
    assert all(img["src"].startswith("data:") for img in page.all("img"))
    assert all(letter + evil in page.text for letter in "abcdefghij")


def test_a_run_half_done_says_how_much_is_done_and_counts_that_alone(tmp_path):
    scenes = examples(4)
    write_run(tmp_path, [[good(s) for s in scenes[:2]], [good(s) for s in scenes[2:]]], planned=5, complete=False)
    (tmp_path / "data/orphan-1.parquet").write_bytes(b"a put that was cut off")
    page = reported(tmp_path)
    assert "Not finished: 2 of 5 planned partitions are done" in page.text
    assert "of 10 planned" in page.text
    assert len(page.pictures("edited")) == 4
    manifest = next((tmp_path / "manifest").iterdir())
    (tmp_path / json.loads(manifest.read_text())["file"]).unlink()
    assert "Not finished: 1 of 5 planned" in reported(tmp_path).text
    (tmp_path / "_SUCCESS").write_text("{}")
    assert "Damaged" in reported(tmp_path).text


def test_a_run_with_nothing_done_yet_has_a_report(tmp_path):
    write_run(tmp_path, [], planned=3, complete=False)
    page = reported(tmp_path)
    assert "0 of 3 planned partitions" in page.text
    assert "No pair has a picture yet" in page.text


def test_the_numbers_count_every_pair_though_few_are_shown(tmp_path):
    scene = examples(1)[0]
    rows = [pair(f"id-{i}", scene.picture(), scene.picture("dog")) for i in range(90)]
    rows += [pair(f"bad-{i}", status="error", error="It is broken.") for i in range(7)]
    rows += [pair(f"odd-{i}", scene.picture(), scene.picture(), status="flagged", error="Odd.") for i in range(3)]
    write_run(tmp_path, [rows[i : i + 25] for i in range(0, 100, 25)], times=[(0, 30), (10, 40), (90, 100), (90, 95)])
    page = reported(tmp_path, pictures=5)
    for words in ("images 100", "ok 90", "failed 7", "7 %", "flagged 3", "3 %", "images per second 2.00 all"):
        assert words in page.text, words
    assert len(page.pictures("edited")) == 5
    assert "5 of 93 pairs" in page.text


def test_the_pictures_are_spread_evenly_over_the_run_and_over_its_edits(tmp_path):
    scene = examples(1)[0]
    rows = [
        pair(f"id-{i:03}", scene.picture(), scene.picture(TARGETS[edit]), edit=edit)
        for i in range(100)
        for edit in TARGETS
    ]
    write_run(tmp_path, [rows[i : i + 20] for i in range(0, 200, 20)], edits=list(TARGETS))
    page = reported(tmp_path, pictures=20)
    shown = [item["data-edit"] for item in page.all("li") if "data-edit" in item]
    assert sorted(shown) == ["cat2dog"] * 10 + ["cat2horse"] * 10
    assert [f"id-{i:03}" in page.text for i in range(5, 100, 10)] == [True] * 10
    assert evenly(3, 10) == [0, 1, 2]
    assert evenly(1000, 2) == [250, 750]


def test_the_strengths_of_a_picture_stand_side_by_side(tmp_path):
    names = ["cat2dog-40", "cat2dog-70", "cat2dog-100"]
    grey = {name: np.full((64, 64, 3), level, np.uint8) for name, level in zip(names, (10, 20, 30), strict=True)}
    rows = [pair(f"id-{i}", examples(1)[0].picture(), grey[name], edit=name) for i in range(4) for name in names]
    edits = {n: {"source": "cat", "target": "dog", "strength": int(n[8:]) / 100} for n in [*reversed(names)]}
    write_run(tmp_path, [rows[:6], rows[6:]], config={"edits": edits})
    page = reported(tmp_path, pictures=2)
    assert [item["data-edit"] for item in page.all("li") if "data-edit" in item] == ["cat2dog-100"] * 2
    assert page.text.count("cat → dog") == 2  # as the page's title and as its heading
    shots = [img["alt"] for img in page.all("img")]
    assert shots == ["source", "40\u00a0%", "70\u00a0%", "edited"] * 2
    for name, said in zip(names, shots[1:4], strict=True):
        np.testing.assert_array_equal(page.pictures(said), [grey[name]] * 2)


def test_failures_are_grouped_by_their_sentence_with_the_ids_that_share_it(tmp_path):
    rows = [pair(f"n{i}.png", status="error", error=f"n{i}.png: The file is empty.") for i in range(KEPT_IDS + 30)]
    rows += [pair("x", status="error", error="It is a text."), pair("y", status="error")]
    write_run(tmp_path, [rows[:60], rows[60:]])
    page = reported(tmp_path)
    assert page.text.count("The file is empty.") == 1
    assert f"{KEPT_IDS + 30} failed: The file is empty. n0.png n1.png" in page.text
    assert f"n{KEPT_IDS - 1}.png and 30 more" in page.text
    assert f"n{KEPT_IDS}.png" not in page.text
    assert "1 failed: It is a text. x" in page.text
    assert "No reason is recorded" in page.text


def test_an_image_that_failed_under_several_edits_is_one_failed_image(tmp_path):
    rows = [pair("x", edit=edit, status="error", error="It is a text.") for edit in TARGETS]
    write_run(tmp_path, [rows], edits=list(TARGETS))
    page = reported(tmp_path)
    assert "1 failed: It is a text. x" in page.text
    assert "failed 2" in page.text


def test_truth_errors_stand_beside_those_of_the_source_as_it_is(tmp_path):
    scenes = examples(4)
    rows = [good(s) for s in scenes[:3]] + [pair(scenes[3].id, scenes[3].picture(), scenes[3].picture())]
    write_run(tmp_path / "run", [rows])
    write_truth(tmp_path / "world.parquet", scenes)
    text = reported(tmp_path / "run", truth_uri=str(tmp_path / "world.parquet"), pictures=2).text
    copies = [np.mean((s.picture() / 255 - s.picture("dog") / 255) ** 2) for s in scenes]
    assert f"cat2dog 4 pairs {copies[3] / 4:.4f}" in text
    assert f"{np.mean(copies):.4f}" in text
    assert "closer to the truth than the source 75 %" in text


def test_truths_are_fitted_and_masked_by_the_runs_own_configuration(tmp_path):
    example, hidden = camouflaged()
    write_truth(tmp_path / "world.parquet", [example])
    table = pq.read_table(tmp_path / "world.parquet").rename_columns({"truth_cat2dog": "truth_puppies"})
    pq.write_table(table, tmp_path / "world.parquet")
    right = example.picture("dog")
    edited = np.where(hidden[..., None], moved(right, 60), right)
    policy = DecodePolicy((32, 64), "stretch")
    edits = {"puppies": {"source": "cat", "target": "dog"}}
    for name, fit, shown in (("a", "crop", (example.picture(), edited)), ("b", "stretch", None)):
        shown = shown or tuple(decode(encode(pixels), policy) for pixels in (example.picture(), right))
        write_run(
            tmp_path / name,
            [[pair(example.id, *shown, edit="puppies")]],
            config={"edits": edits, "image": {"fit": fit}},
        )
    [background] = _cells(reported(tmp_path / "a", truth_uri=str(tmp_path / "world.parquet")))[2:3]
    assert background == "0.0000 exact"
    assert _cells(reported(tmp_path / "b", truth_uri=str(tmp_path / "world.parquet")))[0] == "0.0000 exact"


def test_a_truth_that_fits_no_pair_is_refused(tmp_path):
    write_run(tmp_path / "run", [[good(s) for s in examples(2)]])
    write_truth(tmp_path / "world.parquet", examples(2), edits=("cat2horse",))
    with pytest.raises(ConfigError, match=r"truth of no pair"):
        write_report(str(tmp_path / "run"), truth_uri=str(tmp_path / "world.parquet"))


def test_large_pictures_travel_as_thumbnails_and_small_ones_as_they_are(tmp_path):
    wide = np.zeros((400, 1200, 3), np.uint8)
    write_run(tmp_path, [[pair("wide", wide, wide[:64, :64])]])
    page = reported(tmp_path)
    assert page.pictures("source")[0].shape == (128, 384, 3)
    assert page.pictures("edited")[0].shape == (64, 64, 3)
    assert [img.get("class") for img in page.all("img")] == [None, "small"]


def test_pictures_are_left_out_evenly_before_the_file_grows_too_large(tmp_path, monkeypatch):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    write_run(tmp_path, [[pair(f"id-{i:02}", noise, noise) for i in range(40)]])
    monkeypatch.setattr(cards, "SHEET_BYTES", 400_000)
    page = reported(tmp_path)
    shown = [i for i in range(40) if f"id-{i:02}" in page.text]
    assert 5 < len(shown) < 15
    assert max(np.diff(shown)) <= 3 * min(np.diff(shown))
    assert (tmp_path / "report/index.html").stat().st_size < 450_000
    assert cards.SHEET_BYTES < 15e6


def test_a_picture_that_cannot_be_shown_leaves_a_gap_and_not_a_crash(tmp_path):
    scene = examples(1)[0]
    write_run(tmp_path, [[pair("a", scene.picture(), b"broken"), pair("b", None, None, status="flagged")]])
    page = reported(tmp_path)
    assert len(page.all("img")) == 1
    assert page.text.count("none") == 3


def test_the_report_of_a_run_on_another_file_system_is_written_there(tmp_path):
    write_run(tmp_path, [[good(s) for s in examples(2)]])
    memory = fsspec.filesystem("memory")
    memory.put(str(tmp_path), "/bucket/run", recursive=True)
    uri = write_report("memory://bucket/run")
    assert uri == "memory://bucket/run/report/index.html"
    assert b"cat \xe2\x86\x92 dog" in memory.cat_file("/bucket/run/report/index.html")
    memory.rm("/bucket", recursive=True)


def test_what_is_no_run_or_a_damaged_one_is_an_error_that_names_the_file(tmp_path):
    with pytest.raises(ConfigError, match=r"is not a run"):
        write_report(str(tmp_path))
    write_run(tmp_path, [[good(s) for s in examples(2)]])
    [manifest] = (tmp_path / "manifest").iterdir()
    content = json.loads(manifest.read_text())
    manifest.write_text(json.dumps({**content, "rows": 3}))
    with pytest.raises(P2PZError, match=r"data/.*2 rows instead of 3"):
        write_report(str(tmp_path))
    (tmp_path / content["file"]).write_bytes(b"PAR1")
    with pytest.raises(P2PZError, match=r"data/.*can't be read"):
        write_report(str(tmp_path))
    manifest.write_text("[]")
    with pytest.raises(P2PZError, match=r"manifest/.*is not a manifest"):
        write_report(str(tmp_path))


def test_time_counts_once_where_partitions_overlap_and_not_where_nothing_ran(tmp_path):
    write_run(tmp_path, [[pair(str(i), status="error")] for i in range(4)], times=[(5, 9), (0, 6), (20, 21), (2, 3)])
    assert busy_seconds(Run(str(tmp_path)).manifests) == 10


def test_evaluation_knows_of_running_and_of_ray_only_where_it_is_distributed():
    package = Path(p2pz_ray.evaluation.__file__).parents[1]
    for path in [*package.glob("evaluation/**/*.py"), *package.glob("report/*.py")]:
        distributed, work = path.name == "evaluate.py", ("p2pz_ray.running", "p2pz_ray.translation")
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert distributed or not [name for name in names if name.startswith(work)]
            assert distributed or not [name for name in names if name.split(".")[0] == "ray"]


def _cells(page: Page) -> list[str]:
    """The errors of the table's first edit: edited and source as it is, over the whole picture and the background."""
    return re.findall(r"\d\.\d{4} (?:exact|[\d.]+ dB)", page.text)[:4]


def scored(folder: Path, scores: dict[str, list[float | None]], made_by: str = "a test") -> None:
    """Scores for all pairs of a run, in its order."""
    run, start = Run(str(folder)), 0
    for manifest in run.manifests:
        rows = [row for batch in run.batches(manifest, ["id", "edit"]) for row in batch.to_pylist()]
        here = {name: values[start : start + len(rows)] for name, values in scores.items()}
        keys = [(row["id"], row["edit"]) for row in rows]
        ScoreFolder(run.store).write(manifest, "f", keys, here, dict.fromkeys(scores, made_by), 0)
        start += len(rows)


def test_scores_stand_with_their_intervals_distributions_and_what_made_them(tmp_path):
    write_run(tmp_path, [[good(s) for s in examples(4)]])
    clip = {"clip_source": [0.1, 0.1, 0.3, 0.1], "clip_target": [0.2, 0.2, 0.2, 0.4]}
    scored(tmp_path, {**clip, "psnr": [10, 20, 30, None]})
    page = reported(tmp_path)
    assert "75.0 %" in page.text  # CLIP-Acc
    assert "30.1 % to 95.4 %" in page.text  # Wilson's interval of 3 of 4
    assert "20.0 -4.84 to 44.8" in page.text
    assert "a test" in page.text
    drawn = [svg["aria-label"] for svg in page.all("svg")]
    assert "PSNR to the source, dB: 3 pairs from 10.0 to 30.0" in drawn
    cards = [json.loads(item["data-scores"]) for item in page.all("li") if "data-scores" in item]
    assert [card.get("psnr") for card in cards] == [10, 20, 30, None]
    orders = [option["value"] for option in page.all("option")]
    assert "-1:psnr" in orders
    assert "1:psnr" in orders


def test_the_best_and_worst_of_each_score_are_shown_beside_the_sample(tmp_path):
    scene = examples(1)[0]
    rows = [pair(f"id-{i:03}", scene.picture(), scene.picture("dog")) for i in range(60)]
    write_run(tmp_path, [rows[i : i + 20] for i in range(0, 60, 20)])
    values = [float(v) for v in np.random.default_rng(0).permutation(60)]
    scored(tmp_path, {"psnr": values})
    page = reported(tmp_path, pictures=4)
    for extreme in (0, 1, 2, 57, 58, 59):
        assert f"id-{values.index(extreme):03}" in page.text
    assert len(page.pictures("edited")) <= 10


def test_throughput_is_drawn_over_the_time_of_the_run(tmp_path):
    write_run(tmp_path, [[pair(str(i), status="error")] for i in range(3)], times=[(0, 10), (0, 10), (30, 40)])
    rates, seconds = rates_over_time(Run(str(tmp_path)).manifests)
    assert seconds == 40
    assert rates.sum() * seconds / len(rates) == pytest.approx(3)
    assert rates[0] == pytest.approx(0.2)
    assert rates[len(rates) // 2] == 0
    assert any("over 40 s" in svg["aria-label"] for svg in reported(tmp_path).all("svg"))


def test_a_students_pictures_stand_beside_the_teachers(tmp_path):
    scenes = examples(3)
    write_run(tmp_path / "teacher", [[good(s) for s in scenes]])
    learned = [np.full((64, 64, 3), 60 * i, np.uint8) for i in range(3)]
    write_run(tmp_path / "student", [[pair(s.id, s.picture(), learned[i]) for i, s in enumerate(scenes)][::-1]])
    scored(tmp_path / "teacher", {"psnr": [20, 30, 40], "mse": [0.1, 0.2, 0.3]})
    scored(tmp_path / "student", {"psnr": [10, 11, 12]})
    page = reported(tmp_path / "teacher", student_uri=str(tmp_path / "student"))
    np.testing.assert_array_equal(page.pictures("student"), learned)
    assert "cat2dog student made by" in page.text
    assert "psnr neither is better 30.0 5.16 to 54.8 · 3 11.0 8.52 to 13.5 · 3 a test" in page.text
    assert "mse neither is better 0.200 -0.0484 to 0.448 · 3 – a test" in page.text


def test_a_students_own_report_names_the_student(tmp_path):
    config = {"student": "s3://bucket/student"}
    write_run(tmp_path, [[good(s) for s in examples(1)]], config=config)
    assert "translated by the student s3://bucket/student" in reported(tmp_path).text


def test_numbers_are_short_and_read_at_a_glance():
    shown = {1923.4: "1,923", 12.345: "12.3", 0.6667: "0.667", -0.05: "-0.0500", 3.49e-6: "3.49×10⁻⁶", 0: "0"}
    assert {value: number(value) for value in shown} == shown


def test_two_runs_are_compared_over_the_pairs_that_both_have(tmp_path):
    scenes = examples(5)
    write_run(tmp_path / "a", [[good(s) for s in scenes[:4]]])
    write_run(tmp_path / "b", [[pair(s.id, s.picture(), s.picture()) for s in scenes[1:]]])
    scored(tmp_path / "a", {"psnr": [1, 10, 20, 30], "mse": [0, 0.1, 0.1, 0.1]})
    scored(tmp_path / "b", {"psnr": [12, 21, 29, 0], "mse": [0.2, 0.2, 0.2, 0.2]})
    assert main(["report", str(tmp_path / "a"), str(tmp_path / "b")]) == 0
    page = Page((tmp_path / "a/report/compare-b.html").read_text("utf-8"))
    assert "pairs in both 3" in page.text
    assert "psnr 20.0 20.7 0.667" in page.text
    assert "mse 0.100 0.200 0.100" in page.text
    np.testing.assert_array_equal(page.pictures("A"), [s.picture("dog") for s in scenes[1:4]])
    np.testing.assert_array_equal(page.pictures("B"), [s.picture() for s in scenes[1:4]])
    changes = [json.loads(item["data-scores"])["psnr"] for item in page.all("li") if "data-scores" in item]
    assert changes == [2, 1, -1]


def test_a_comparison_is_the_same_however_little_is_in_memory_and_however_the_runs_are_cut(tmp_path, monkeypatch):
    scenes, rng = examples(12), np.random.default_rng(0)
    rows = [pair(s.id, s.picture(), s.picture("dog"), edit=edit) for s in scenes for edit in ("a", "b")]
    rows[3] |= {"status": "error", "edited_image": None}
    scores = {"psnr": list(rng.normal(20, 3, 24)), "judge_target": list((rng.random(24) < 0.5).astype(float))}
    scores["psnr"][6] = None
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    write_run(whole, [rows])
    write_run(parts, [rows[i : i + 4] for i in range(0, 24, 4)])
    scored(whole, scores)
    scored(parts, {name: [value and value + 1 for value in values[::-1]] for name, values in scores.items()})

    def compared(one, two):
        write_comparison(str(one), str(two), pictures=7)
        page = Page(next((one / "report").iterdir()).read_text("utf-8"))
        return page.text.partition("written")[0], page.pictures("A"), page.pictures("B")

    text, *pictures = compared(whole, parts)
    assert "pairs in both 23" in text
    most = []
    given = Matched.__iter__

    def watched(self):
        for table in given(self):
            most.append(table.num_rows)
            yield table

    monkeypatch.setattr(Matched, "__iter__", watched)
    monkeypatch.setattr(matched, "ROWS", 3)
    again, *same = compared(whole, parts)
    assert (again, sum(most)) == (text, 23)
    assert max(most) < 12
    assert len(most) > 3
    np.testing.assert_array_equal(same, pictures)


def test_runs_without_a_pair_in_common_are_refused_and_scores_of_other_makers_not_compared(tmp_path):
    scenes = examples(2)
    for name, rows in (("a", scenes[:1]), ("b", scenes[1:]), ("c", scenes[:1])):
        write_run(tmp_path / name, [[good(s) for s in rows]])
    with pytest.raises(ConfigError, match="no pair in common"):
        write_comparison(str(tmp_path / "a"), str(tmp_path / "b"))
    scored(tmp_path / "a", {"psnr": [1]})
    scored(tmp_path / "c", {"psnr": [2]}, made_by="something else")
    page = Page(Path(write_comparison(str(tmp_path / "a"), str(tmp_path / "c"))).read_text("utf-8"))
    assert "The runs have no score in common" in page.text


def test_the_page_opens_in_a_browser_without_a_complaint(tmp_path):
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("there is no Chromium on this machine")
    write_run(tmp_path, [[good(s) for s in examples(3)]])
    scored(tmp_path, {"psnr": [30.0, 10.0, 20.0]})
    html = Path(write_report(str(tmp_path))).read_text("utf-8")
    # What a person would do: order by a score, keep some, enlarge one and move the slider.
    act = """<script>
    const say = text => document.title = text;
    addEventListener("error", event => say("error: " + event.message));
    addEventListener("load", () => { try {
      order.value = "-1:psnr"; order.dispatchEvent(new Event("change"));
      filter.value = "psnr"; low.value = "15"; low.dispatchEvent(new Event("input"));
      const left = [...document.querySelectorAll("#sheet > li")].filter(card => !card.hidden);
      left[0].querySelector("button").click();
      const slide = document.querySelector(".slide"), range = slide.querySelector("input");
      range.value = 80; range.dispatchEvent(new Event("input"));
      say([document.querySelector("dialog").open, left.map(card => JSON.parse(card.dataset.scores).psnr),
        slide.style.getPropertyValue("--at")].join(" "));
    } catch (error) { say("error: " + error); } });
    </script></body>"""
    (tmp_path / "page.html").write_text(html.replace("</body>", act))
    flags = "--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking --disable-sync"
    found = subprocess.run(
        [
            browser,
            *flags.split(),
            "--dump-dom",
            f"--user-data-dir={tmp_path / 'profile'}",
            (tmp_path / "page.html").as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert "<title>true 30,20 80%</title>" in found.stdout
