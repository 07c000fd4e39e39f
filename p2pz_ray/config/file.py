"""Reading a configuration: YAML, KEY=VALUE overrides, and one sentence for whatever is wrong with either."""

import dataclasses
import difflib
import re
from collections.abc import Iterator, Sequence
from types import UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

import fsspec
import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from p2pz_ray.errors import ConfigError
from p2pz_ray.storage.uri import unquoted

C = TypeVar("C", bound=BaseModel)


def load(path: str | None, overrides: Sequence[str], kind: type[C]) -> C:
    """The configuration in the YAML file `path` (a path or any fsspec URI; None: an empty one), with
    `overrides` set.

    An override is KEY=VALUE, KEY's parts joined by dots. VALUE is the text as it stands where the key takes text;
    numbers, true and false, lists, mappings and null are read as YAML where the key takes those. An empty "KEY="
    sets null, and quotation marks around a whole text are removed.
    Raises ConfigError with one sentence that names the file, the line or the key.
    """
    where = path if path is not None else "The configuration"
    return validated({} if path is None else _read(path), overrides, kind, where)


def validated(values: dict[str, Any], overrides: Sequence[str], kind: type[C], where: str = "The configuration") -> C:
    """The configuration of these values, with `overrides` set; `where` they come from, for a sentence. Raises as
    `load` does."""
    for override in overrides:
        _override(values, override, kind)
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise ConfigError(f"{where}: {_sentence(error.errors()[0], kind)}.") from None


def keys_of(path: str) -> set[str]:
    """The keys at the top of a configuration file. Raises as `load` does for one that can't be read."""
    return set(_read(path))


class _Loader(yaml.SafeLoader):
    """YAML 1.1 as PyYAML reads it, but a key given twice is an error and 1e-3 is a number."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key.value, str) and key.value in seen and key.value != "<<":
                problem = f"the key {key.value!r} stands twice"
                raise yaml.composer.ComposerError(None, None, problem, key.start_mark)
            if isinstance(key.value, str):
                seen.add(key.value)
        return node


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)


def _parse(text: str | bytes, where: str) -> Any:
    try:
        return yaml.load(text, _Loader)
    except yaml.MarkedYAMLError as error:
        line = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        raise ConfigError(f"{where} is not valid YAML, {line}{error.problem or error.context}.") from None
    except (yaml.YAMLError, ValueError) as error:  # undecodable bytes, an impossible date
        raise ConfigError(f"{where} is not valid YAML: {' '.join(str(error).split())}.") from None


def _read(path: str) -> dict[str, Any]:
    try:
        with fsspec.open(unquoted(path), "rb") as file:
            text = file.read()
    except FileNotFoundError:
        raise ConfigError(f"There is no configuration file {path}: check the path.") from None
    except Exception as error:  # a folder, no permission, a missing driver, any remote store's own errors
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise ConfigError(f"Can't read the configuration {path} ({reason}): check the path.") from error
    values = _parse(text, path)
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigError(f"{path} holds no mapping of keys to values: write lines such as 'output: runs/mine'.")
    return values


def storage_options(path: str | None) -> dict[str, Any]:
    """What a YAML file says that fsspec is to be handed for a storage; {} without a file. Raises ConfigError."""
    return {} if path is None else _read(path)


def _override(values: dict[str, Any], override: str, kind: type[BaseModel]) -> None:
    """Set one KEY=VALUE in `values`, making the mappings on the way to it."""
    key, equals, text = override.partition("=")
    parts = key.strip().split(".")
    if not equals or not all(parts):
        raise ConfigError(f"Can't read the override {override!r}: write KEY=VALUE, such as seed=7 or input.uri=photos.")
    value = _value(text, _annotation(kind, parts), f"The value of {key.strip()}")
    for depth, part in enumerate(parts[:-1], start=1):
        if values.get(part) is None:
            values[part] = {}
        if not isinstance(values[part], dict):
            parent = ".".join(parts[:depth])
            raise ConfigError(
                f"Can't set {key.strip()}: {parent} is {values[part]!r}, which has no keys in it, so set {parent} "
                "itself."
            )
        values[part] = dict(values[part])  # an alias in the YAML shares one mapping between several keys
        values = values[part]
    values[parts[-1]] = value


def _annotation(kind: Any, parts: Sequence[str]) -> Any:
    """The type of the key whose parts these are; Any for a key that isn't known or lies in a free mapping."""
    for part in parts:
        options = list(_options(kind))
        sections = [_annotations(option) for option in options if _is_section(option)]
        fields = [section[part] for section in sections if part in section]
        mappings = [option for option in options if get_origin(option) is dict]
        if fields:
            kind = fields[0]
        elif mappings:
            kind = get_args(mappings[0])[1]
        else:
            return Any
    return kind


def _options(annotation: Any) -> Iterator[Any]:
    """The types of a union, what is annotated without its annotations."""
    origin = get_origin(annotation)
    if origin is Annotated:
        yield from _options(get_args(annotation)[0])
    elif origin in (Union, UnionType):
        for member in get_args(annotation):
            yield from _options(member)
    else:
        yield annotation


def _value(text: str, annotation: Any, where: str) -> Any:
    """What the text of an override sets a key of this type to."""
    options = list(_options(annotation))
    if not text or (text in ("null", "~") and (Any in options or type(None) in options)):
        return None
    kinds = [type(value) for option in options if get_origin(option) is Literal for value in get_args(option)]
    if str in (*options, *kinds) and not {bool, int, float} & {*options, *kinds}:
        return _unquoted(text)
    lists = [option for option in options if get_origin(option) in (list, tuple, Sequence)]
    items = [item for option in lists for item in _options(get_args(option)[0])]
    short = str in items or any(map(_has_short_form, options))
    if text[0] in "[{" or (not short and (lists or any(map(_is_mapping, options)))):
        try:
            value = _parse(text, where)
        except ConfigError:
            if not short and Any not in options:
                raise
            value = None
        if isinstance(value, (list if lists else dict) if short else (list, dict)):
            return value
    return _unquoted(text) if short or text[0] in "\"'" else _scalar(text)


def _is_mapping(option: Any) -> bool:
    return get_origin(option) is dict or _is_section(option)


def _is_section(option: Any) -> bool:
    return isinstance(option, type) and (issubclass(option, BaseModel) or dataclasses.is_dataclass(option))


def _has_short_form(option: Any) -> bool:
    """Whether this is a section that a plain text can stand for, as a checkpoint's name does."""
    return (
        isinstance(option, type)
        and issubclass(option, BaseModel)
        and any(v.info.mode == "before" for v in option.__pydantic_decorators__.model_validators.values())
    )


def _unquoted(text: str) -> str:
    """The text as it stands; within quotation marks that hold it whole, what YAML reads there."""
    if len(text) > 1 and text[0] in "\"'" and text[-1] == text[0]:
        try:
            value = yaml.load(text, _Loader)
        except yaml.YAMLError:
            return text
        return value if isinstance(value, str) else text
    return text


def _scalar(text: str) -> Any:
    """A number, true, false or null as YAML writes them; any other text as it stands, with no comment in it."""
    loader = _Loader("")
    try:
        node = yaml.ScalarNode(loader.resolve(yaml.ScalarNode, text, (True, False)), text)
        return loader.construct_object(node)
    except (yaml.YAMLError, ValueError):  # an impossible date
        return text
    finally:
        loader.dispose()


_EXPECTED = {
    "int": "a whole number",
    "float": "a number",
    "string": "text, so put it in quotes",
    "bool": "true or false",
    "dict": "a mapping of keys to values",
    "model": "a mapping of keys to values",
    "dataclass": "a mapping of keys to values",
    "list": "a list",
    "sequence": "a list",
    "tuple": "a list",
}


def _sentence(error: ErrorDetails, kind: type[BaseModel]) -> str:
    """One clause about one error: the key, what is wrong with it, what to do. No full stop."""
    path = tuple(str(part) for part in error["loc"] if part != "[key]")
    key, context, value = ".".join(path), error.get("ctx", {}), error["input"]
    subject = key or "it"
    if "storage_options" in path:
        value = "…"  # may hold a secret
    match error["type"]:
        case "missing":
            return f"{subject} is missing, set it in the file or as {subject}=VALUE"
        case "extra_forbidden" | "unexpected_keyword_argument":
            return f"there is no key {subject}, {_suggestion(path, kind)}"
        case "value_error":
            message = str(context["error"])
            return f"{key} {message}" if key else message
        case "literal_error":
            return f"{subject} is {_brief(value)}, but it must be {context['expected']}"
        case "greater_than" | "greater_than_equal" | "less_than" | "less_than_equal":
            [(name, bound)] = context.items()
            side = {"gt": "above", "ge": "at least", "lt": "below", "le": "at most"}[name]
            return f"{subject} is {_brief(value)}, but it must be {side} {bound}"
        case "too_short":
            return f"{subject} is empty, name at least one"
        case "finite_number":
            return f"{subject} is {_brief(value)}, but it must be a finite number"
        case other:
            expected = _EXPECTED.get(other.partition("_")[0])
            if expected is None:
                return f"{subject} is wrong: {error['msg'][0].lower()}{error['msg'][1:]}"
            return f"{subject} is {_brief(value)}, but it must be {expected}"


def _brief(value: Any) -> str:
    """`value` as YAML would have it, short enough for a sentence."""
    text = "null" if value is None else str(value).lower() if isinstance(value, bool) else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"


def _suggestion(path: tuple[str, ...], kind: type[BaseModel]) -> str:
    """What an unknown key may have been meant for: a similar name in its section, the same name elsewhere, or
    the list of the section's keys."""
    *parents, name = path
    section: type | None = kind
    for parent in parents:
        section = _inner(section, parent) if section is not None else None
    siblings = [] if section is None else list(_annotations(section))
    prefix = "".join(f"{parent}." for parent in parents)
    close = difflib.get_close_matches(name, siblings, n=1)
    if close:
        return f"did you mean {prefix}{close[0]}"
    elsewhere = list(_keys(kind))
    same = [key for key in elsewhere if key.rpartition(".")[2] == name]
    if not same:
        last = {key.rpartition(".")[2]: key for key in reversed(elsewhere)}
        same = [last[match] for match in difflib.get_close_matches(name, last, n=1, cutoff=0.75)]
    if same:
        return f"did you mean {same[0]}"
    return f"{prefix.rstrip('.') or 'it'} has {', '.join(siblings)}"


def _inner(section: type, key: str) -> type | None:
    """The section under `key`, looking through `| None` and through a mapping of names to sections."""
    annotations = _annotations(section)
    if key not in annotations:  # the name of an entry of such a mapping
        return section
    sections = list(_sections(annotations[key]))
    return sections[0] if sections else None


def _annotations(section: type) -> dict[str, Any]:
    """The type of each key of a section, a model or a dataclass."""
    if issubclass(section, BaseModel):
        return {field.alias or name: field.annotation for name, field in section.model_fields.items()}
    return {field.name: field.type for field in dataclasses.fields(section)}  # type: ignore[arg-type]


def _sections(annotation: Any) -> Iterator[type]:
    if _is_section(annotation):
        yield annotation
    else:
        for argument in get_args(annotation):
            yield from _sections(argument)


def _keys(section: type, prefix: str = "") -> Iterator[str]:
    """All dotted keys; the entries of a mapping of sections stand under NAME."""
    for name, annotation in _annotations(section).items():
        yield f"{prefix}{name}"
        for inner in _sections(annotation):
            of_names = getattr(annotation, "__origin__", None) is dict
            yield from _keys(inner, f"{prefix}{name}.{'NAME.' if of_names else ''}")
