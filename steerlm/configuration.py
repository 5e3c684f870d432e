# SPDX-License-Identifier: Apache-2.0
"""Load YAML files and `--set a.b=c` overrides into pydantic models; errors name the line and the nearest known key."""

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import UnionType
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, RootModel, ValidationError

from steerlm.errors import ConfigError, problem

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

SettingsT = TypeVar("SettingsT", bound=BaseModel)
ITEM = "*"
"""Placeholder for any index of a list and any key of a mapping."""


class Loader(yaml.SafeLoader):
    """YAML 1.1's safe loader that also reads 6e-6 as a number and refuses duplicate keys."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Build a mapping. Raises `MarkedYAMLError` for a key given twice, at its line; YAML merge keys may repeat."""
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = key_node.value
            if key_node.tag != "tag:yaml.org,2002:merge" and key in seen:
                raise yaml.MarkedYAMLError(problem=f"key {key!r} is given twice", problem_mark=key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)

    def construct_scalar(self, node: yaml.ScalarNode | yaml.MappingNode) -> Any:
        r"""Read a scalar. An emoji that is written as JSON writes it, `"\ud83d\ude00"`, is one character."""
        value: Any = super().construct_scalar(node)
        try:
            return _joined(value) if isinstance(value, str) else value
        except UnicodeDecodeError:
            problem = "half of a character (a \\uD8.. escape without its other half \\uDC..)"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark) from None


Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def load_settings(path: Path, model: type[SettingsT], overrides: Sequence[str] = (), scope: str = "") -> SettingsT:
    """Read a YAML file, apply overrides and validate.

    Args:
        path: The YAML file.
        model: The class to validate with.
        overrides: Of the form `a.b=value`, the value in YAML.
        scope: A prefix of the overrides' keys that the file's keys do not have, such as `profile.`.

    Raises:
        ConfigError: Names file, line and full key; for an unknown key also the nearest known one.
    """
    try:
        text = path.read_text(encoding="utf-8")
        data = _unshared(yaml.load(text, Loader))
        node = yaml.compose(text, Loader)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 text (byte {error.start})") from None
    except yaml.reader.ReaderError as error:
        raise ConfigError(f"{path}: not valid YAML: {error.reason} at character {error.position}") from None
    except (RecursionError, ValueError) as error:  # nested too deeply; a date or number that does not exist
        raise ConfigError(f"{path}: not valid YAML: {str(error) or 'nested too deeply'}") from None
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ConfigError(f"{path}:{line}: not valid YAML: {error.problem}") from None
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: a mapping of sections was expected")
    given: dict[str, str] = {}
    in_file = _unshared(data)
    for override in overrides:
        key, value = _parse(override.removeprefix(scope))
        _apply(data, key, value, model, scope)
        given[key] = override
    try:
        return model.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        keys = _keys(first["loc"], data)
        name = ".".join(keys)
        blamed = _overrides_behind(first, name, given, model, in_file)
        place = f"--set {' --set '.join(blamed)}" if blamed else f"{path}:{_line(node, keys)}"
        if first["type"] == "extra_forbidden":
            hint = nearest_key(name, model)
            hint = "; it belongs to another kind of this section" if repr(name) in hint else hint
            raise ConfigError(f"{place}: unknown key {name!r}{hint}") from None
        message = problem(first)
        raise ConfigError(f"{place}: {name}: {message}" if name else f"{place}: {message}") from None


def nearest_key(name: str, model: type[BaseModel], scope: str = "") -> str:
    """Return `; did you mean 'sft.optimizer.lr'?` for an unknown dotted key, or the known keys of the section.

    Each part is replaced by the nearest known one in turn. If none is near, the last part is searched below it.
    """
    parts, here, path = name.split("."), model, list[str]()
    for part in parts:
        children = _children(here)
        known = part if part in children else ITEM if ITEM in children else None
        if known is None:
            close = difflib.get_close_matches(part, children, n=1, cutoff=0.6)
            if not close:
                below = [p for p in key_paths(here) if p.rpartition(".")[2] == parts[-1]]
                if not below:
                    return f"; known there: {', '.join(children)}" if children else f"; {'.'.join(path)} has no keys"
                path.append(min(below, key=len))
                break
            part = known = close[0]
        path.append(part)
        here = children[known]
    return f"; did you mean {scope + '.'.join(path)!r}?"


def key_paths(annotation: Any, prefix: str = "") -> Iterator[str]:
    """Yield every dotted key of a model, sections included; `*` is an index or a free key."""
    for key, inner in _children(annotation).items():
        path = f"{prefix}{key}"
        yield path
        yield from key_paths(inner, f"{path}.")


def _children(annotation: Any) -> dict[str, Any]:
    """Return the keys of a value of this type: the fields of all models it may be, `*` for items."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _children(arguments[0])
    if origin in (Union, UnionType):
        return {key: inner for member in arguments for key, inner in _children(member).items()}
    if origin in (list, tuple):
        return {ITEM: arguments[0]}
    if origin is dict:
        return {ITEM: arguments[1]}
    if isinstance(annotation, type) and issubclass(annotation, RootModel):
        return _children(annotation.model_fields["root"].annotation)
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return {key: field.annotation for key, field in annotation.model_fields.items()}
    return {}


def _unshared(value: Any) -> Any:
    """Copy the data so that aliases of one YAML anchor are separate, and an override of one changes no other."""
    if isinstance(value, dict):
        return {key: _unshared(inner) for key, inner in value.items()}
    return [_unshared(inner) for inner in value] if isinstance(value, list) else value


def _joined(text: str) -> str:
    """Make one character of every pair of surrogates. Raises `UnicodeDecodeError` for half of a pair."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16")


def _parse(override: str) -> tuple[str, Any]:
    key, equals, value = override.partition("=")
    if not equals or not all(key.split(".")):
        raise ConfigError(f"--set {override}: key=value was expected, such as sft.optimizer.lr=1e-5")
    try:
        _joined(value)
    except UnicodeDecodeError:
        raise ConfigError(f"--set {key}: the value is not UTF-8 text") from None
    try:
        return key, yaml.load(value, Loader)
    except yaml.YAMLError:
        return key, value


def _overrides_behind(
    error: "ErrorDetails", name: str, given: Mapping[str, str], model: type[BaseModel], in_file: Any
) -> list[str]:
    """Return the overrides that cause an error at the key `name`: of the key itself, else of keys beside or below it.

    The latter are to blame if the file without them has no such error.
    """
    own = [text for key, text in given.items() if name == key or name.startswith(f"{key}.")]
    if own or not given:
        return own[-1:]
    try:
        model.model_validate(in_file)
    except ValidationError as without:
        if any((one["loc"], one["type"]) == (error["loc"], error["type"]) for one in without.errors()):
            return []
    section = name.rpartition(".")[0] if error["type"] == "missing" else name
    return [text for key, text in given.items() if key.startswith(f"{section}.")] or list(given.values())


def _apply(data: dict[str, Any], key: str, value: Any, model: type[BaseModel], scope: str) -> None:
    """Set one key in the nested data, creating missing sections."""
    annotation: Any = model
    here: Any = data
    parts = key.split(".")
    for depth, part in enumerate(parts):
        children = _children(annotation)
        known = ITEM if ITEM in children else part
        if known not in children:
            raise ConfigError(f"--set {scope}{key}: unknown key{nearest_key(key, model, scope)}")
        annotation = children[known]
        index: Any = part
        if isinstance(here, list):
            if not part.isdecimal() or int(part) >= len(here):
                place = ".".join(parts[:depth])
                raise ConfigError(f"--set {scope}{key}: {place} has {len(here)} items, counted from 0; {part} is none")
            index = int(part)
        if depth == len(parts) - 1:
            here[index] = value
            return
        below = here[index] if isinstance(here, list) else here.get(part)
        if not isinstance(below, dict | list):
            below = here[index] = {}
        here = below


def _keys(location: Sequence[str | int], data: Any) -> list[str]:
    """Return a pydantic location without the tags of unions, which are not keys of the file."""
    keys: list[str] = []
    for depth, part in enumerate(location):
        below = dict(enumerate(data)) if isinstance(data, list) else data if isinstance(data, dict) else {}
        if part in below:
            data = below[part]
        elif depth < len(location) - 1:
            continue
        keys.append(str(part))
    return keys


def _line(node: Any, keys: Sequence[str]) -> int:
    """Return the line of a key in the file, or of the innermost section around it that exists."""
    line: int = node.start_mark.line + 1
    for key in keys:
        if isinstance(node, yaml.MappingNode):
            pairs = [(k, v) for k, v in node.value if k.value == key]
            if not pairs:
                break
            line, node = pairs[0][0].start_mark.line + 1, pairs[0][1]
        elif isinstance(node, yaml.SequenceNode) and key.isdecimal() and int(key) < len(node.value):
            node = node.value[int(key)]
            line = node.start_mark.line + 1
    return line
