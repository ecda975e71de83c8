"""YAML and ``key.sub=value`` overrides become the dataclass that stands beside its owner.

jsonargparse checks types and fills defaults; this module adds what a user needs: the key that is wrong, the nearest
real one, and the file it stands in. YAML is read by ``safe_load`` only: a tag that names Python objects is an error.
"""

import dataclasses
import hashlib
import json
import re
import types
import typing
from pathlib import Path
from typing import Any, TypeVar

import yaml

from drivesim.errors import Mistake, nearest

T = TypeVar("T")
SPELLED = {"class": "cls"}  # keys of files that are no names in Python, and the fields that they mean


def load(cls: type[T], file: str | Path | None, overrides: list[str] | tuple[str, ...] = ()) -> T:
    """``cls`` from a YAML file (or its defaults) with ``key.sub=value`` overrides on top.

    Raises:
        Mistake: no such file, not YAML, an unknown key (with the nearest real one), a value of the wrong type.
    """
    values: dict[str, Any] = read_yaml(file) if file is not None else {}
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals:
            raise Mistake(
                f"'{override}' is not key=value", mend="overrides are key.sub=value, for example loop.steps=100"
            )
        _set(values, key.split("."), _parse(text, override), override)
    return build(cls, values, where=file or "command line")


def read_yaml(file: str | Path) -> dict[str, Any]:
    """The mapping in a YAML file.

    Raises:
        Mistake: no such file, not text, not YAML, not a mapping.
    """
    try:
        content = yaml.safe_load(Path(file).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise Mistake("no such file", where=file, mend="see configs/ for those that exist") from None
    except (OSError, UnicodeDecodeError) as problem:
        raise Mistake(f"cannot be read: {problem}", where=file) from None
    except yaml.YAMLError as problem:
        mark = getattr(problem, "problem_mark", None)
        line = f" line {mark.line + 1}" if mark else ""
        raise Mistake(f"not YAML{line}: {getattr(problem, 'problem', problem)}", where=file) from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise Mistake(f"a mapping of keys is expected, not a {type(content).__name__}", where=file)
    return content


def build(cls: type[T], values: dict[str, Any], where: object = "configuration") -> T:
    """``cls`` from plain values, every key and type checked."""
    from jsonargparse import ArgumentParser

    values = _spelled(values, SPELLED)
    _check_keys(cls, values, (), where)
    parser = ArgumentParser(exit_on_error=False, default_env=False)
    parser.add_argument("--config", type=cls)
    try:
        return parser.instantiate(parser.parse_object({"config": values})).config
    except Mistake:
        raise
    except Exception as problem:  # jsonargparse raises several kinds; each is a value that does not fit
        raise Mistake(_shorter(str(problem)), where=where, mend="--print-config shows every key and value") from None


def plain(config: Any) -> dict[str, Any]:
    """A dataclass (or a mapping) as plain values that YAML and JSON can carry."""
    is_one = dataclasses.is_dataclass(config) and not isinstance(config, type)
    values = dataclasses.asdict(config) if is_one else config
    return _spelled(json.loads(json.dumps(values, default=str)), {field: key for key, field in SPELLED.items()})


def _spelled(values: Any, spelling: dict[str, str]) -> Any:
    """Plain values with keys spelled another way."""
    if isinstance(values, dict):
        return {spelling.get(key, key): _spelled(value, spelling) for key, value in values.items()}
    return [_spelled(value, spelling) for value in values] if isinstance(values, list) else values


def to_yaml(config: Any) -> str:
    return yaml.safe_dump(plain(config), sort_keys=False)


def digest(config: Any) -> str:
    """Twelve hexadecimal digits that change when any value does."""
    return hashlib.sha256(json.dumps(plain(config), sort_keys=True).encode()).hexdigest()[:12]


def _parse(text: str, override: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        raise Mistake(f"the value of '{override}' is not YAML", mend="quote it for the shell: 'key=[1, 2]'") from None


def _set(values: dict[str, Any], path: list[str], value: Any, override: str) -> None:
    for part in path[:-1]:
        values = values.setdefault(part, {})
        if not isinstance(values, dict):
            raise Mistake(f"'{override}': '{part}' holds a value, not keys")
    values[path[-1]] = value


def _check_keys(cls: Any, values: Any, path: tuple[str, ...], where: object) -> None:
    """Keys that are not fields; null, or a bare value for an object, either of which jsonargparse would let through."""
    hints = typing.get_type_hints(cls)
    names = [field.name for field in dataclasses.fields(cls)]
    for key, value in values.items():
        full = ".".join((*path, str(key)))
        if key not in names:
            raise Mistake(f"unknown key '{full}'", where=where, mend=nearest(str(key), names))
        arms = _arms(hints[key])
        if value is None:
            if type(None) not in arms and Any not in arms:
                raise Mistake(f"{full}: a value is expected, not null", where=where)
            continue
        inner = next((arm for arm in arms if dataclasses.is_dataclass(arm)), None)
        if inner is not None and isinstance(value, dict):
            _check_keys(inner, value, (*path, key), where)
        elif inner is not None and not dataclasses.is_dataclass(value):
            raise Mistake(f"{full}: keys are expected, not the value {value!r}", where=where)


def _arms(hint: Any) -> tuple[Any, ...]:
    """The types that ``X | Y`` allows."""
    union = isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union
    return typing.get_args(hint) if union else (hint,)


def _shorter(message: str) -> str:
    """One line of jsonargparse's several: the whole key, what is expected, what was given."""
    key = ".".join(re.findall(r'Parser key "([^"]+)"', message)).removeprefix("config").removeprefix(".")
    lines = [line.strip(" -") for line in message.splitlines()]
    given = next((line for line in lines if "Got value:" in line), None)
    if given is None:  # a union names each arm that does not fit, then the value
        arms = " or ".join(line.removeprefix("Expected ") for line in lines if line.startswith("Expected "))
        value = next((line.removeprefix("Given value: ") for line in lines if line.startswith("Given value: ")), None)
        given = f"Expected {arms}. Got value: {value}" if arms and value is not None else lines[-1]
    return f"{key}: {given}"[:300] if key else given.replace("config.", "")[:300]
