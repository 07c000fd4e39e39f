"""The page's HTML, and the one function through which text from outside enters it."""

from collections.abc import Sequence
from html import escape
from importlib.resources import files
from string import Template

from p2pz_ray.look import SLIDER, STYLE

MAX_TEXT = 600


def html(*, title: str, subtitle: str, head: str, sections: Sequence[str], footer: str) -> str:
    """The whole page. head and sections are HTML, the rest is text."""
    template = Template(files("p2pz_ray.report").joinpath("report.html").read_text("utf-8"))
    return template.substitute(
        title=text(title), subtitle=text(subtitle), head=head, sections="\n".join(sections), footer=text(footer),
        look=STYLE, slider=SLIDER,
    )  # fmt: skip


def section(name: str, heading: str, body: str) -> str:
    return f'<section aria-labelledby="{name}-h">\n<h2 id="{name}-h">{heading}</h2>\n{body}\n</section>' if body else ""


def text(value: str, limit: int = MAX_TEXT) -> str:
    """Any string as safe HTML text or attribute value: escaped, printable, and cut to `limit` characters."""
    # Ids may carry undecodable bytes as lone surrogates, which UTF-8 can't hold.
    clean = value.encode("utf-8", "backslashreplace").decode("utf-8").replace("\0", "\N{REPLACEMENT CHARACTER}")
    return escape(clean if len(clean) <= limit else f"{clean[: limit - 1]}…")
