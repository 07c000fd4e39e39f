"""The page: one file that loads nothing from elsewhere, and its Content-Security-Policy."""

from html import escape
from importlib.resources import files

from p2pz_ray.look import SLIDER, STYLE

POLICY = (
    "default-src 'none'; connect-src 'self'; img-src data: blob:; style-src 'unsafe-inline'; "
    "script-src 'unsafe-inline'; form-action 'self'; base-uri 'self'; frame-ancestors 'none'"
)
"""What a browser lets the page do."""


def page(root: str) -> str:
    """HTML. root: the path that the service is mounted at, "" at the top."""
    html = files("p2pz_ray.serving.web").joinpath("page.html").read_text("utf-8")
    base = f'<base href="{escape(root.rstrip("/"))}/">'
    return html.replace("/*LOOK*/", STYLE).replace("/*SLIDER*/", SLIDER).replace("<!--BASE-->", base)
