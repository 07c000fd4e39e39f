"""The page: one file that asks nothing of any other place, and what may stand beside it."""

from importlib.resources import files

from p2pz_ray.look import SLIDER, STYLE

POLICY = (
    "default-src 'none'; connect-src 'self'; img-src data: blob:; style-src 'unsafe-inline'; "
    "script-src 'unsafe-inline'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
"""What a browser lets the page do."""


def page() -> str:
    html = files("p2pz_ray.serving").joinpath("page.html").read_text("utf-8")
    return html.replace("/*LOOK*/", STYLE).replace("/*SLIDER*/", SLIDER)
