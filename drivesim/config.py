"""YAML and ``key.sub=value`` overrides become the dataclass that stands beside its owner.

pydantic checks types and fills defaults (``schema``); this module says what is wrong as a user needs it: the file, the
line, the field, the nearest real key or what the field means.
"""

import dataclasses
import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar, cast

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from drivesim import schema, yamlfile
from drivesim.errors import Mistake, nearest

T = TypeVar("T")
WANTED = {
    "float_type": "a number",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "bool_type": "true or false",
    "string_type": "text",
    "tuple_type": "a list",
    "list_type": "a list",
    "dict_type": "a mapping of keys",
    "dataclass_type": "a mapping of keys",
}  # by pydantic's name of the error


def load(cls: type[T], file: str | Path | None, overrides: Sequence[str] = ()) -> T:
    """``cls`` from a YAML file (or its defaults) with ``key.sub=value`` overrides on top.

    Raises:
        Mistake: no such file, not YAML, an unknown key (with the nearest real one), a value that does not fit.
    """
    values = yamlfile.read(file) if file is not None else {}
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals:
            raise Mistake(
                f"'{override[:80]}' is not key=value", mend="overrides are key.sub=value, for example loop.steps=100"
            )
        _set(values, key.split("."), _parse(text, override), override)
    with located(file, overrides):
        return build(cls, values)


@contextmanager
def located(file: str | Path | None, overrides: Sequence[str] = ()) -> Iterator[None]:
    """Mistakes that name a field and no place get theirs: ``FILE line N``, or the command line if it gave the field."""
    try:
        yield
    except Mistake as mistake:
        if mistake.field is not None and mistake.where is None:
            mistake.where = _place(mistake.field, file, [override.partition("=")[0] for override in overrides])
        raise


def _place(field: str, file: str | Path | None, given: list[str]) -> object:
    """Where ``field`` has its value from; the keys ``given`` on the command line go before the file's."""
    if file is None or any(re.match(rf"{re.escape(key)}($|[.\[])", field) for key in given):
        return "command line"
    line = yamlfile.line_of(file, field)
    place = f"{file} line {line}" if line else file
    return f"{place} and the command line" if any(key.startswith(f"{field}.") for key in given) else place


def build(cls: type[T], values: dict[str, Any], where: object = None) -> T:
    """``cls`` from plain values, every key and type checked.

    Raises:
        Mistake: an unknown key, a value that does not fit; it names the field.
    """
    text, kind = json.dumps([_completed(cls, values)], default=str), cast(Any, cls)  # a date is text
    try:
        return cast(T, schema.adapter(kind).validate_json(text)[0])
    except Mistake as mistake:  # of the dataclass itself, which knows its fields
        mistake.where = where if mistake.where is None else mistake.where
        raise
    except ValidationError as problem:
        raise _mistake(cls, json.loads(text)[0], problem.errors(include_url=False), where) from None


def _completed(cls: Any, values: dict[str, Any], default: Any = None) -> dict[str, Any]:
    """``values`` for ``cls`` with what they leave out of ``default``, an instance of it. pydantic knows the defaults of
    classes, but not that those of a field of another class may differ: ``steps`` of ``sampler: {eta: 1}`` is the
    field's, not that of every sampler."""
    found = dict(values)
    for field, inner in schema.nested(cls).items():
        key, own = schema.spelled(field.name), getattr(default, field.name, schema.default_of(field))
        if isinstance(found.get(key), dict):
            found[key] = _completed(inner, found[key], own if dataclasses.is_dataclass(own) else None)
    return found if default is None else {**plain(default), **found}


def plain(config: Any) -> dict[str, Any]:
    """A dataclass (or a mapping) as plain values that YAML and JSON can carry."""
    is_one = dataclasses.is_dataclass(config) and not isinstance(config, type)
    values = dataclasses.asdict(config) if is_one else config
    return _spelled(json.loads(json.dumps(values, default=str)))


def _spelled(values: Any) -> Any:
    """Plain values under the keys of files."""
    if isinstance(values, dict):
        return {schema.spelled(key): _spelled(value) for key, value in values.items()}
    return [_spelled(value) for value in values] if isinstance(values, list) else values


def to_yaml(config: Any) -> str:
    return yamlfile.dump(plain(config))


def digest(config: Any) -> str:
    """Twelve hexadecimal digits that change when any value does."""
    return hashlib.sha256(json.dumps(plain(config), sort_keys=True).encode()).hexdigest()[:12]


def _parse(text: str, override: str) -> Any:
    try:
        return yamlfile.parse(text)
    except ValueError:
        what = f"the value of '{override[:80]}' is not YAML"
        raise Mistake(what, mend="quote it for the shell: 'key=[1, 2]'") from None


def _set(values: dict[str, Any], path: list[str], value: Any, override: str) -> None:
    for part in path[:-1]:
        values = values.setdefault(part, {})
        if not isinstance(values, dict):
            raise Mistake(f"'{override[:80]}': '{part[:80]}' holds a value, not keys")
    values[path[-1]] = value


def _mistake(cls: type, values: Any, errors: list[ErrorDetails], where: object) -> Mistake:
    """One of ``errors``: an unknown key before all others, which may follow from it; else what lies deepest."""
    if errors[0]["type"] == "json_invalid":  # a character that is half of one, a number of thousands of digits
        what = errors[0]["msg"].removeprefix("Invalid JSON: ")
        return Mistake(f"holds what is no value ({what})", where=where or "command line", mend="write it in UTF-8")
    error = min(errors, key=lambda each: (each["type"] != "unexpected_keyword_argument", -len(each["loc"])))
    path = _path(values, error)
    holder, name = schema.holder(cls, path), next((part for part in reversed(path) if isinstance(part, str)), "")
    known, given = schema.described(holder), json.dumps(error["input"])
    meant = f"{name}: {known[name]}" if name in known else None
    if error["type"] == "unexpected_keyword_argument":
        fields = [schema.spelled(field.name) for field in dataclasses.fields(holder)]
        what, meant = "no such key", nearest(name, fields)
    elif error["type"] == "missing":
        what = "is missing"
    elif error["type"] == "value_error":
        what = str(error["ctx"]["error"])
    elif error["type"] == "literal_error" and isinstance(error["input"], str):
        what, meant = f"{given} is not known", nearest(error["input"], re.findall("'(.*?)'", error["ctx"]["expected"]))
    elif error["input"] is None:
        what = "a value is expected, not null"
    elif error["type"] == "dataclass_type" and isinstance(error["input"], (int, float, str, bool)):
        what = f"a mapping of keys is expected, not {given}"
        meant = f"write {_field(path)}.KEY=VALUE, or {name}: {{KEY: VALUE}} in a file"
    else:
        same = [each for each in errors if _path(values, each) == path]
        what = f"{' or '.join(dict.fromkeys(map(_wanted, same)))} is expected, not {given}"
    return Mistake(what if len(what) < 300 else f"{what[:300]} ...", where=where, field=_field(path), mend=meant)


def _path(values: Any, error: ErrorDetails) -> list[str | int]:
    """Keys and places in lists that lead to where ``error`` is; pydantic also names the arms of unions."""
    _, *parts = error["loc"]  # the first is the list that ``schema.adapter`` puts around the values
    path: list[str | int] = []
    for part in parts:
        try:
            values = values[part]
        except (KeyError, IndexError, TypeError):
            return [*path, part] if error["type"] == "missing" else path
        path.append(part)
    return path


def _field(path: Sequence[str | int]) -> str | None:
    return "".join(f".{part}" if isinstance(part, str) else f"[{part}]" for part in path).removeprefix(".") or None


def _wanted(error: ErrorDetails) -> str:
    """What pydantic would have taken, as in ``... is expected``."""
    words = WANTED.get(error["type"]) or error["msg"].removeprefix("Input should be ")
    words = re.sub(r"(?:Tuple|List) should have (.*) after validation.*", r"a list of \1", words)
    return f"a number {words}" if re.match("greater|less", words) else words
