"""Every key of every job, from the types that read it.

    python -m p2pz_ray.config.reference configs/README.md

renews the reference in that file, below the line "## Every key". A key's line has its type, its default, and the
comment beside its field.
"""

import argparse
import dataclasses
import inspect
import io
import tokenize
import types
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from pydantic import BaseModel

from p2pz_ray.config.direction import DirectionConfig
from p2pz_ray.config.distill import DistillConfig
from p2pz_ray.config.evaluate import EvaluateConfig
from p2pz_ray.config.serve import ServeConfig
from p2pz_ray.config.translate import TranslateConfig

JOBS: dict[str, type[BaseModel]] = {
    "translate": TranslateConfig,
    "evaluate": EvaluateConfig,
    "distill": DistillConfig,
    "direction": DirectionConfig,
    "serve": ServeConfig,
}
HEADING = "## Every key"
_REQUIRED, _ELSEWHERE = object(), object()


@dataclass(frozen=True)
class Key:
    """One key of a configuration, with the dots that lead to it."""

    name: str
    type: str
    default: Any
    meaning: str

    @property
    def shown(self) -> str:
        """Its default as YAML has it, REQUIRED where there is none."""
        return "REQUIRED" if self.default is _REQUIRED else "" if self.default is _ELSEWHERE else _value(self.default)

    @property
    def row(self) -> str:
        default = "required" if self.default is _REQUIRED else f"`{self.shown}`" if self.shown else ""
        cells = (f"`{self.name}`", self.type, default, self.meaning)
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def reference() -> str:
    """The tables of all jobs, as Markdown."""
    parts, listed = [], dict[tuple[str, type], str]()
    for job, config in JOBS.items():
        summary = inspect.cleandoc(config.__doc__ or "").splitlines()[0]
        rows = [key.row for key in keys(config, job=job, listed=listed)]
        parts.append(
            "\n".join([f"### {job}", "", summary, "", "| key | value | default | |", "|---|---|---|---|", *rows])
        )
    return "\n\n".join(parts) + "\n"


def renewed(text: str) -> str:
    """A file's text with the reference of today below its heading."""
    before, heading, _ = text.partition(HEADING)
    return f"{before}{heading}\n\n{reference()}"


def keys(
    section: type,
    before: str = "",
    values: Any = None,
    *,
    job: str = "",
    listed: dict[tuple[str, type], str] | None = None,
) -> Iterator[Key]:
    """The keys of a section, those of the sections within it after its own name.

    values: the section's own default, whose values are those of its keys. listed: which job's keys include a section
    already, by the place where it stands; such a section is named in one line.
    """
    listed = {} if listed is None else listed
    comments = _comments(section)
    hints = get_type_hints(section, include_extras=True)
    for name, default in _defaults(section):
        default = default if values is None else getattr(values, name)
        hint, dotted = hints[name], f"{before}{_written(section, name)}"
        container, inner = get_origin(_unwrapped(hint)), _section(hint)
        plain = inner is not None and container not in (list, dict)
        if not plain or default is None or default is _REQUIRED:
            yield Key(dotted, _type(hint), default, comments.get(name, ""))
        if inner is None:
            continue
        dotted += {dict: ".NAME", list: "[]"}.get(container, "")
        if listed.setdefault((dotted, inner), job) != job:
            yield Key(f"{dotted}.…", "section", _ELSEWHERE, f"as in {listed[dotted, inner]}")
        else:
            yield from keys(
                inner, f"{dotted}.", default if plain and _is_section(type(default)) else None, job=job, listed=listed
            )


def _written(section: type, name: str) -> str:
    """What a configuration calls a field: a word that Python keeps for itself is an alias there."""
    return (section.model_fields[name].alias if issubclass(section, BaseModel) else None) or name


def _defaults(section: type) -> Iterator[tuple[str, Any]]:
    if issubclass(section, BaseModel):
        for name, field in section.model_fields.items():
            yield name, _REQUIRED if field.is_required() else field.get_default(call_default_factory=True)
        return
    settings: Any = section()  # of settings, every one has a default
    for setting in dataclasses.fields(settings):
        yield setting.name, getattr(settings, setting.name)


def _comments(section: type) -> dict[str, str]:
    """Field → the comment at the end of its line, of a class and of those that it extends."""
    comments: dict[str, str] = {}
    for owner in reversed(section.__mro__):
        if not owner.__module__.startswith("p2pz_ray"):
            continue
        source = inspect.cleandoc("\n" + inspect.getsource(owner))
        name = ""
        for token in tokenize.generate_tokens(io.StringIO(source).readline):
            if token.type == tokenize.NAME and token.start[1] == 4:
                name = token.string
            elif token.type == tokenize.COMMENT and name and token.start[1] > 4:
                comments[name] = token.string.removeprefix("#").strip()
    return comments


def _is_section(hint: Any) -> bool:
    return isinstance(hint, type) and (issubclass(hint, BaseModel) or dataclasses.is_dataclass(hint))


def _unwrapped(hint: Any) -> Any:
    """Without what annotates it and without None."""
    if get_origin(hint) is Annotated:
        return _unwrapped(get_args(hint)[0])
    if get_origin(hint) in (Union, types.UnionType):
        rest = [one for one in get_args(hint) if one is not type(None)]
        return _unwrapped(rest[0]) if len(rest) == 1 else hint
    return hint


def _section(hint: Any) -> type | None:
    """The section that a key's value is made of, or its members are; None for a plain value."""
    bare = _unwrapped(hint)
    if get_origin(bare) in (list, dict):
        bare = _unwrapped(get_args(bare)[-1])
    return bare if _is_section(bare) else None


def _type(hint: Any) -> str:
    bare = _unwrapped(hint)
    nullable = " or null" if _takes_none(hint) else ""
    if get_origin(bare) is Literal:
        return ", ".join(f"`{_value(option)}`" for option in get_args(bare)) + nullable
    if get_origin(bare) in (Union, types.UnionType):
        return " or ".join(_type(one) for one in get_args(bare) if one is not type(None)) + nullable
    if get_origin(bare) is list:
        return f"list of {_type(get_args(bare)[0])}" + nullable
    if get_origin(bare) is dict:
        return "mapping" + nullable
    if get_origin(bare) is tuple:
        return f"[{', '.join(_type(one) for one in get_args(bare))}]" + nullable
    names = {str: "text", int: "whole number", float: "number", bool: "true or false"}
    return names.get(bare, "section" if _is_section(bare) else "text") + nullable


def _takes_none(hint: Any) -> bool:
    if get_origin(hint) is Annotated:
        return _takes_none(get_args(hint)[0])
    return get_origin(hint) in (Union, types.UnionType) and type(None) in get_args(hint)


def _value(value: Any) -> str:
    """As it is written in YAML."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_value, value)) + "]"
    return f"{value:g}" if isinstance(value, float) else "{}" if value == {} else str(value)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m p2pz_ray.config.reference")
    parser.add_argument("file", type=Path)
    file = parser.parse_args().file
    file.write_text(renewed(file.read_text(encoding="utf-8")), encoding="utf-8")
