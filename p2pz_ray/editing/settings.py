"""The settings of inversions and edits, in Python and in configurations. Imports no PyTorch.

An invalid setting is refused at construction, in one sentence.
"""

import types
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from numbers import Integral, Real
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import numpy as np

from p2pz_ray.errors import ConfigError

if TYPE_CHECKING:
    from p2pz_ray.editing.model import DiffusionModel


class SettingError(ConfigError, ValueError):
    """An invalid setting."""


@dataclass(frozen=True)
class Within:
    """The range of a number; `most` None means no upper limit."""

    least: float
    most: float | None = None

    def __get_pydantic_core_schema__(self, source: Any, handler: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
        """The range for a configuration, which has its own messages."""
        schema = handler(source)
        number = schema["schema"] if schema["type"] == "nullable" else schema
        number |= {"ge": self.least} | ({} if self.most is None else {"le": self.most})
        if number["type"] == "float":
            number["allow_inf_nan"] = False
        return schema


@dataclass(frozen=True)
class Span:
    """What a window along the steps may be: [FROM, TO], shares of the steps counted from the noisiest; or TO alone."""

    @staticmethod
    def read(value: Any) -> tuple[float, float]:
        """Raises ValueError with what is wanted."""
        ends = list(value) if isinstance(value, list | tuple) else [0.0, value]
        sound = len(ends) == 2 and all(isinstance(end, Real) and not isinstance(end, bool | np.bool_) for end in ends)
        if not sound or not 0 <= ends[0] <= ends[1] <= 1:
            raise ValueError("a share of the steps or [FROM, TO], at least 0, at most 1, and FROM no later than TO")
        return float(ends[0]), float(ends[1])

    def __get_pydantic_core_schema__(self, source: Any, handler: Callable[[Any], Any]) -> dict[str, Any]:
        def validated(value: Any) -> tuple[float, float]:
            try:
                return self.read(value)
            except ValueError as error:
                raise ValueError(f"is {value!r}, but it must be {error}") from None

        return {"type": "function-plain", "function": {"type": "no-info", "function": validated}}


LAMBDA = 0.1
"""The paper's λ_xa."""
LAMBDA_V = 0.01
"""That of v-prediction models, of which people report that 0.1 makes noise and 0.01 does not."""
Amount = Annotated[float, Within(0)]
Window = Annotated[tuple[float, float], Span()]
Count = Annotated[int, Within(1)]


class Settings:
    """Fields that are checked against their types; numbers of NumPy become Python's."""

    __pydantic_config__ = {"extra": "forbid", "strict": True}  # noqa: RUF012

    def __post_init__(self) -> None:
        hints = get_type_hints(type(self), include_extras=True)
        for field in fields(self):  # type: ignore[arg-type]
            try:
                object.__setattr__(self, field.name, _checked(getattr(self, field.name), hints[field.name]))
            except ValueError as error:
                raise SettingError(f"{field.name} is {getattr(self, field.name)!r}, but it must be {error}") from None

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
        """In a configuration a mapping stands for it, whose values are never converted."""
        return {**handler(source), "strict": False}


@dataclass(frozen=True)
class InversionSettings(Settings):
    """`steps` DDIM steps; after each prediction `reg_steps` rounds of noise regularization. None is the checkpoint's
    own default.

    "sampled" draws one shift a channel and level for each of `rolls` updates; "full" takes all shifts, as the paper has
    it; "official" draws as the authors' code does, shift 0 among the others; "none" leaves the noise alone. `order` 2
    extrapolates ε from the step before.
    """

    steps: Annotated[int | None, Within(1, 1000)] = None
    regularization: Literal["sampled", "full", "official", "none"] | None = None
    lambda_ac: Amount = 20.0
    lambda_kl: Amount = 20.0
    reg_steps: Annotated[int, Within(0)] = 5
    rolls: Count = 5
    order: Literal[1, 2] = 1

    def resolve(self, model: "DiffusionModel", official: bool = False) -> "InversionSettings":
        """With steps and regularization as set, else of the checkpoint's `editing.json`, else the paper's 50 and
        "sampled", which the `official` form of the guidance draws as its code does."""
        own = model.defaults
        steps = own.get("steps", 50) if self.steps is None else self.steps
        usual = own.get("regularization", "sampled")
        if official and usual == "sampled":
            usual = "official"
        return replace(self, steps=steps, regularization=self.regularization or usual)


_CONFINING = ("confine", "confine_threshold", "confine_widen", "confine_layers")


@dataclass(frozen=True)
class GuidanceSettings(Settings):
    """Cross-attention and classifier-free guidance. None is what suits the checkpoint.

    `form` is the paper's formula, or what the authors' published code computes and their figures were made with. The
    latter knows λ, cfg, the negative, feather and confine alone.

    `strength` multiplies every direction, beside what its edit multiplies it by.

    `negative` is the text that classifier-free guidance moves away from; "caption" stands for the image's own caption,
    right for real images, and an empty one is what the checkpoint takes for it (SDXL: zeros). `reference` says where
    the reference's latents come from: "trajectory" are the inversion's own, "reconstruction" denoises them again from
    x_T as the paper does.

    Windows say where along the steps something acts, [FROM, TO] from the noisiest on: `directed` the direction, outside
    of which the caption alone stands; `guided` the comparing of maps; `confined` the masks, outside of which every cell
    may change. The paper's are the whole walk. `feather` is how many pixels inside a mask's edge its edit is blended
    into the source.

    `confine` "attention" makes a mask for each image and edit where the caption's source words are attended to, or for
    a caption without them where the direction changes ε: of the blocks of `confine_layers` (None: all), cut at
    `confine_threshold` of what lies between an image's least and most (None: by Otsu's rule, for each image its own),
    and widened by `confine_widen` pixels.

    The others trade evaluations for exactness. Of the steps that compare maps every `guided_every`-th computes a
    gradient, and the steps between use it again. `layers` names the blocks whose maps are compared (None: all). Every
    `negative_every`-th step asks for ε_neg, and ε_edit - ε_neg is held between. `order` 2 extrapolates ε from the step
    before. `reuse` takes ε_edit from the pass that compares maps, before they have moved x.
    """

    form: Literal["paper", "official"] = "paper"
    lambda_xa: Annotated[float | None, Within(0)] = None
    cfg: Annotated[float | None, Within(0)] = None
    strength: Annotated[float | None, Within(0)] = None
    negative: str = "caption"
    reference: Literal["trajectory", "reconstruction"] = "trajectory"
    directed: Window = (0.0, 1.0)  # shares of the steps, from the noisiest, between which the direction acts
    guided: Window = (0.0, 1.0)  # … maps are compared; one number is the end
    confined: Window = (0.0, 1.0)  # … masks hold what is outside of them
    feather: Annotated[int, Within(0, 64)] = 0  # pixels inside a mask's edge that blend into the source
    confine: Literal["none", "attention"] = "none"  # to where the model attends to the source words
    confine_threshold: Annotated[float | None, Within(0, 1)] = None  # null: an image's own, by Otsu's rule
    confine_widen: Annotated[int, Within(0, 512)] = 2  # pixels
    confine_layers: Sequence[str] | None = None  # blocks whose maps are looked at; null: all
    guided_every: Count = 1
    layers: Sequence[str] | None = None
    negative_every: Count = 1
    order: Literal[1, 2] = 1
    reuse: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.form == "official":
            known = ("form", "lambda_xa", "cfg", "negative", "feather", *_CONFINING)
            idle = [f.name for f in fields(self) if f.name not in known and getattr(self, f.name) != f.default]
            if idle:
                raise SettingError(f"form official knows no {', '.join(idle)}: leave that out, or take form paper")

    def resolve(self, model: "DiffusionModel") -> tuple[float, float, float]:
        """(λ_xa, guidance scale, strength): as set, else from the checkpoint's `editing.json`, else the paper's 0.1,
        5 and 1.

        λ is one number for all families, since the loss compares every latent at as many places (see README.md), but
        `LAMBDA_V` for v-prediction.
        """
        usual = LAMBDA if model.prediction == "epsilon" else LAMBDA_V
        lambda_xa = self.lambda_xa if self.lambda_xa is not None else model.defaults.get("lambda_xa", usual)
        cfg = self.cfg if self.cfg is not None else model.defaults.get("cfg", 5.0)
        strength = self.strength if self.strength is not None else model.defaults.get("strength", 1.0)
        return float(lambda_xa), float(cfg), float(strength)


def _checked(value: Any, hint: Any) -> Any:
    """The value, a plain one where it is NumPy's. Raises ValueError with what the hint wants."""
    within: Within | None = None
    if get_origin(hint) is Annotated:
        hint, *known = get_args(hint)
        if isinstance(known[0], Span):
            return known[0].read(value)
        within = next((each for each in known if isinstance(each, Within)), None)
    choices = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    if value is None and type(None) in choices:
        return None
    [wanted] = [choice for choice in choices if choice is not type(None)]
    if get_origin(wanted) is Annotated:
        wanted = get_args(wanted)[0]
    if get_origin(wanted) is Literal:
        options = get_args(wanted)
        if any(value == option and type(value) is type(option) for option in options):
            return value
        raise ValueError(f"{', '.join(map(repr, options[:-1]))} or {options[-1]!r}")
    if wanted in (int, float):
        kind, said = (Integral, "a whole number") if wanted is int else (Real, "a number")
        if isinstance(value, bool | np.bool_) or not isinstance(value, kind):
            raise ValueError(said)
        value = wanted(value)
        if not np.isfinite(value):
            raise ValueError("a finite number")
        if within is not None and value < within.least:
            raise ValueError(f"at least {within.least}")
        if within is not None and within.most is not None and value > within.most:
            raise ValueError(f"at most {within.most}")
        return value
    wanted = get_origin(wanted) or wanted
    if wanted is Sequence:
        if isinstance(value, str) or not isinstance(value, Sequence) or not all(isinstance(v, str) for v in value):
            raise ValueError("a list of texts")
        return value
    if not isinstance(value, wanted):
        raise ValueError({str: "text", bool: "True or False", dict: "a mapping"}[wanted])
    return value
