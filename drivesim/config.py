"""YAML and ``key.sub=value`` overrides become the dataclass that stands beside its owner.

jsonargparse checks types and fills defaults; this module adds what a user needs: the key that is wrong, the nearest real
one, and the file it stands in. YAML is read by ``safe_load`` only: a tag that names Python objects is an error.
"""

import dataclasses
import hashlib
import json
import types
import typing
from pathlib import Path
from typing import Any, TypeVar

import yaml

from drivesim.errors import Mistake, nearest

T = TypeVar("T")


def load(cls: type[T], file: str | Path | None, overrides: list[str] | tuple[str, ...] = ()) -> T:
    """``cls`` from a YAML file (or its defaults) with ``key.sub=value`` overrides on top.

    Raises:
        Mistake: no such file, not YAML, an unknown key (with the nearest real one), a value of the wrong type.
    """
    values: dict[str, Any] = read_yaml(file) if file is not None else {}
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals:
            raise Mistake(f"'{override}' is not key=value", mend="write overrides as key.sub=value, for example steps=100")
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

    _known_keys(cls, values, (), where)
    parser = ArgumentParser(exit_on_error=False, default_env=False)
    parser.add_argument("--config", type=cls)
    try:
        parsed = parser.parse_object({"config": values} if values else {"config": {}})
        return parser.instantiate_classes(parsed).config
    except Mistake:
        raise
    except Exception as problem:  # jsonargparse raises several kinds; each is a value that does not fit
        lines = [line.strip(" -") for line in str(problem).splitlines() if line.strip()]
        raise Mistake(_shorter(lines), where=where, mend="--print-config shows every key with its value") from None


def plain(config: Any) -> dict[str, Any]:
    """A dataclass as plain values that YAML and JSON can carry."""
    return json.loads(json.dumps(dataclasses.asdict(config), default=str))


def to_yaml(config: Any) -> str:
    return yaml.safe_dump(plain(config), sort_keys=False)


def digest(config: Any) -> str:
    """Twelve hexadecimal digits that change when any value does."""
    values = plain(config) if dataclasses.is_dataclass(config) else config
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:12]


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


def _known_keys(cls: Any, values: Any, path: tuple[str, ...], where: object) -> None:
    if not dataclasses.is_dataclass(cls) or not isinstance(values, dict):
        return
    hints = typing.get_type_hints(cls)
    names = [field.name for field in dataclasses.fields(cls)]
    for key, value in values.items():
        if key not in names:
            raise Mistake(f"unknown key '{'.'.join((*path, str(key)))}'", where=where, mend=nearest(str(key), names))
        _known_keys(_inner(hints[key]), value, (*path, key), where)


def _inner(hint: Any) -> Any:
    """The dataclass in ``X | None``."""
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        return next((arm for arm in typing.get_args(hint) if dataclasses.is_dataclass(arm)), hint)
    return hint


def _shorter(lines: list[str]) -> str:
    text = next((line for line in lines if "config" in line), lines[0] if lines else "does not fit")
    return text.replace('"config.', '"').replace("config.", "").replace('Parser key "config": ', "")[:300]
