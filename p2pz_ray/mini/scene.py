"""A scene: one picture's attributes, each independent of the others, and how random scenes are drawn."""

import json
from dataclasses import asdict, dataclass, fields, replace

import numpy as np

SMALL = ("cat", "dog", "fox", "rabbit")
LARGE = ("horse", "zebra")
KINDS = (*SMALL, *LARGE)
COATS = ("black", "white", "grey", "brown", "ginger", "cream")
GROUNDS = ("grass", "sand", "wood", "stone", "carpet", "tiles")
SKIES = ("blue sky", "sunset", "night", "mist", "wall")
SEASONS = ("summer", "winter")
POSES = ("alert", "resting")  # a small animal sits or lies, a large one stands or grazes
VIEWS = ("front", "side")  # where the head looks
STYLES = ("photo", "sketch", "oil pastel")

CHOICES: dict[str, tuple[object, ...]] = {
    "kind": KINDS,
    "coat": COATS,
    "ground": GROUNDS,
    "sky": SKIES,
    "season": SEASONS,
    "pose": POSES,
    "view": VIEWS,
    "style": STYLES,
    "glasses": (False, True),
    "hat": (False, True),
}
"""The attributes with named values, and the values of each."""

_SHARES: dict[object, float] = {True: 0.2, False: 0.8, "resting": 0.4, "side": 0.4, "sketch": 0.2, "oil pastel": 0.2}


@dataclass(frozen=True)
class Scene:
    """One picture's attributes. Lengths are fractions of the picture's side, `tilt` is in degrees."""

    kind: str = "cat"
    coat: str = "ginger"
    ground: str = "grass"
    sky: str = "blue sky"
    season: str = "summer"
    pose: str = "alert"
    view: str = "front"
    style: str = "photo"
    glasses: bool = False
    hat: bool = False
    x: float = 0.5
    y: float = 0.54
    size: float = 0.74
    tilt: float = 0.0
    flip: bool = False
    horizon: float = 0.6

    def __post_init__(self) -> None:
        for name, options in CHOICES.items():
            if getattr(self, name) not in options:
                raise ValueError(
                    f"a scene's {name} is one of {', '.join(map(str, options))}, not {getattr(self, name)!r}"
                )

    def with_(self, **changes: object) -> "Scene":
        """The counterfactual: this scene with some attributes changed."""
        return replace(self, **changes)  # type: ignore[arg-type]

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @staticmethod
    def from_json(text: str) -> "Scene":
        """Raises ValueError for text that is not a scene."""
        values = json.loads(text)
        if not isinstance(values, dict) or not set(values) <= {field.name for field in fields(Scene)}:
            raise ValueError(f"{text[:80]!r} is not a scene")
        return Scene(**values)

    @property
    def held_out(self) -> bool:
        """True for the combinations of coat, ground and sky (a fifth of them) that no training scene has."""
        rank = COATS.index(self.coat) + 2 * GROUNDS.index(self.ground)
        return (rank + SKIES.index(self.sky)) % 5 == 0


def sample_scene(rng: np.random.Generator, *, held_out: bool | None = None, **fixed: object) -> Scene:
    """Draw a random scene with the `fixed` attributes; `held_out` picks held-out or training scenes, None any."""
    while True:
        scene = Scene(
            **{name: _choice(rng, options) for name, options in CHOICES.items()},  # type: ignore[arg-type]
            x=float(rng.uniform(0.44, 0.56)),
            y=float(rng.uniform(0.51, 0.56)),
            size=float(rng.uniform(0.66, 0.86)),
            tilt=float(rng.uniform(-8, 8)),
            flip=bool(rng.random() < 0.5),
            horizon=float(rng.uniform(0.45, 0.68)),
        ).with_(**fixed)
        if held_out is None or scene.held_out == held_out:
            return scene


def _choice(rng: np.random.Generator, options: tuple[object, ...]) -> object:
    """A random option: those in `_SHARES` with that probability, the others equally often."""
    rest = 1 - sum(_SHARES.get(option, 0.0) for option in options)
    others = sum(option not in _SHARES for option in options)
    shares = [_SHARES.get(option, rest / max(1, others)) for option in options]
    return options[int(rng.choice(len(options), p=shares))]
