"""The look of the report and of the service's page: one style sheet, and one slider over two pictures."""

from importlib.resources import files

STYLE = files("p2pz_ray.look").joinpath("look.css").read_text("utf-8")
SLIDER = files("p2pz_ray.look").joinpath("slider.js").read_text("utf-8")
