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
    """The type of a window of steps: [FROM, TO], as shares of all steps counted from the noisiest; or just TO."""

    @staticmethod
    def read(value: Any) -> tuple[float, float]:
        """(FROM, TO). Raises ValueError with what the value must be."""
        ends = list(value) if isinstance(value, list | tuple) else [0.0, value]
        numbers = len(ends) == 2 and all(isinstance(end, Real) and not isinstance(end, bool | np.bool_) for end in ends)
        if not numbers or not 0 <= ends[0] <= ends[1] <= 1:
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
"""λ_xa of v-prediction models: users report that 0.1 makes noise and 0.01 does not."""
Amount = Annotated[float, Within(0)]
AmountOrNone = Annotated[float | None, Within(0)]
ShareOrNone = Annotated[float | None, Within(0, 1)]
Window = Annotated[tuple[float, float], Span()]
Count = Annotated[int, Within(1)]


class Settings:
    """A base whose fields are checked against their types; NumPy's numbers become Python's."""

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
        """In a configuration, settings are a mapping whose values are never converted."""
        return {**handler(source), "strict": False}


@dataclass(frozen=True)
class InversionSettings(Settings):
    """DDIM inversion with noise regularization. None is the checkpoint's own default, else the paper's (see `resolve`).

    `regularization` is one of
    - "sampled": each update draws one shift per channel and pyramid level;
    - "full": all shifts, as in the paper;
    - "official": shifts drawn as the authors' code draws them, with shift 0 among them;
    - "none": the noise is left as it is.
    """

    steps: Annotated[int | None, Within(1, 1000)] = None  # DDIM steps; null: the checkpoint's, or 50
    regularization: Literal["sampled", "full", "official", "none"] | None = None  # null: the checkpoint's, or sampled
    lambda_ac: Amount = 20.0  # step size of the autocorrelation loss L_pair
    lambda_kl: Amount = 20.0  # step size of the loss L_KL
    reg_steps: Annotated[int, Within(0)] = 5  # rounds of regularization after each prediction
    rolls: Count = 5  # updates per round, each with newly drawn shifts
    order: Literal[1, 2] = 1  # 2: ε is extrapolated from the previous step

    def resolve(self, model: "DiffusionModel", official: bool = False) -> "InversionSettings":
        """With `steps` and `regularization` filled in: as set, else from the checkpoint's `editing.json`, else 50 and
        "sampled". For the `official` form of the guidance, a default of "sampled" becomes "official"."""
        own = model.defaults
        steps = own.get("steps", 50) if self.steps is None else self.steps
        default = own.get("regularization", "sampled")
        if official and default == "sampled":
            default = "official"
        return replace(self, steps=steps, regularization=self.regularization or default)


_CONFINING = ("confine", "confine_threshold", "confine_widen", "confine_layers")


@dataclass(frozen=True)
class GuidanceSettings(Settings):
    """Cross-attention guidance and classifier-free guidance.

    The comments beside the fields say what they do. Further:
    - None of `lambda_xa`, `cfg` and `strength` is the checkpoint's own default, else the paper's (see `resolve`).
    - `form` "official" is what the authors made their figures with. It takes `lambda_xa`, `cfg`, `negative`, `feather`
      and the `confine` fields, and no others.
    - `negative` "caption" is right for real images. "" is embedded as the checkpoint embeds no text (SDXL: as zeros).
    - `reference` "reconstruction" denoises the reference again from x_T, as the paper does.
    - The windows `directed`, `guided` and `confined` are [FROM, TO], as shares of the steps counted from the noisiest.
      The paper's are all steps. Where `directed` doesn't apply the edit has the caption as it is, and where `confined`
      doesn't every cell can change.
    - `confine` "attention" masks where the caption's source words are attended to; if the caption lacks them, where
      the direction changes ε.
    - `guided_every` and all fields below it trade exactness for fewer or cheaper UNet evaluations.
    """

    form: Literal["paper", "official"] = "paper"  # the paper's formula, or the one in the authors' published code
    lambda_xa: AmountOrNone = None  # λ, the cross-attention loss's weight; null: the checkpoint's, or 0.1 (v: 0.01)
    cfg: AmountOrNone = None  # classifier-free guidance scale; null: the checkpoint's, or 5
    strength: AmountOrNone = None  # multiplies every direction, and its edit's strength; null: the checkpoint's, or 1
    negative: str = "caption"  # text to guide away from; caption: the image's own
    reference: Literal["trajectory", "reconstruction"] = "trajectory"  # latents from the inversion, or denoised again
    directed: Window = (0.0, 1.0)  # when the direction acts: shares of the steps, noisiest first; one number is the end
    guided: Window = (0.0, 1.0)  # when maps are compared, in the same form
    confined: Window = (0.0, 1.0)  # when masks protect what is outside them, in the same form
    feather: Annotated[int, Within(0, 64)] = 0  # pixels inside a mask's edge that blend into the source
    confine: Literal["none", "attention"] = "none"  # attention: a mask per image and edit, from the source's words
    confine_threshold: ShareOrNone = None  # cut between an image's least and most, 0 … 1; null: Otsu's rule
    confine_widen: Annotated[int, Within(0, 512)] = 2  # pixels by which that mask is widened
    confine_layers: Sequence[str] | None = None  # blocks whose maps make that mask; null: all
    guided_every: Count = 1  # of the steps that compare maps, every n-th computes a gradient; the others reuse it
    layers: Sequence[str] | None = None  # blocks whose maps are compared; null: all
    negative_every: Count = 1  # every n-th step computes ε_neg; ε_edit - ε_neg is kept in between
    order: Literal[1, 2] = 1  # 2: ε is extrapolated from the previous step
    reuse: bool = False  # take ε_edit from the pass that compares maps, before their gradient moves x

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.form == "official":
            known = ("form", "lambda_xa", "cfg", "negative", "feather", *_CONFINING)
            ignored = [f.name for f in fields(self) if f.name not in known and getattr(self, f.name) != f.default]
            if ignored:
                raise SettingError(
                    f"form official doesn't support {', '.join(ignored)}: leave it out, or set form to paper"
                )

    def resolve(self, model: "DiffusionModel") -> tuple[float, float, float]:
        """(λ_xa, guidance scale, strength): as set, else from the checkpoint's `editing.json`, else the paper's 0.1,
        5 and 1.

        λ is the same for all families, since the loss compares each latent at about as many places in all of them (see
        README.md), except for v-prediction, where it is `LAMBDA_V`.
        """
        default = LAMBDA if model.prediction == "epsilon" else LAMBDA_V
        lambda_xa = self.lambda_xa if self.lambda_xa is not None else model.defaults.get("lambda_xa", default)
        cfg = self.cfg if self.cfg is not None else model.defaults.get("cfg", 5.0)
        strength = self.strength if self.strength is not None else model.defaults.get("strength", 1.0)
        return float(lambda_xa), float(cfg), float(strength)


def _checked(value: Any, hint: Any) -> Any:
    """The value, converted from NumPy's types to Python's. Raises ValueError with what the value must be."""
    within: Within | None = None
    if get_origin(hint) is Annotated:
        hint, *limits = get_args(hint)
        if isinstance(limits[0], Span):
            return limits[0].read(value)
        within = next((limit for limit in limits if isinstance(limit, Within)), None)
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
        kind, description = (Integral, "a whole number") if wanted is int else (Real, "a number")
        if isinstance(value, bool | np.bool_) or not isinstance(value, kind):
            raise ValueError(description)
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
