"""A dataclass as a schema: pydantic checks values against it, editors read it as JSON (draft 2020-12).

Both come from the types, their ranges (``Annotated`` with ``annotated_types``) and the ``Args`` of the docstring.
"""

import dataclasses
import inspect
import re
import types
import typing
from collections.abc import Sequence
from functools import cache
from typing import Any

from pydantic import ConfigDict, TypeAdapter
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

SPELLED = {"cls": "class"}  # fields, and the keys of files that are no names in Python


def spelled(field: str) -> str:
    """The key that stands for ``field`` in a file."""
    return SPELLED.get(field, field)


@cache
def adapter(cls: Any) -> TypeAdapter[Any]:
    """Checks JSON, ``[values]``, and makes ``(cls,)`` of it: pydantic has no settings for a dataclass, but for what
    holds one. Unknown keys are errors, and so are values that would have to be converted, but for whole numbers that
    are meant as floats and lists as tuples.
    """
    return TypeAdapter(tuple[cls], config=ConfigDict(extra="forbid", strict=True, alias_generator=spelled))


def json_schema(cls: Any) -> dict[str, Any]:
    """The JSON schema of a file that holds ``cls``."""
    found = adapter(cls).json_schema(schema_generator=_Described)
    own = found["$defs"].pop(cls.__name__)
    return {"$schema": _Described.schema_dialect, **own, "$defs": found["$defs"]}


class _Described(GenerateJsonSchema):
    """Descriptions from docstrings; no titles, which would repeat the names."""

    def dataclass_schema(self, schema: core_schema.DataclassSchema) -> JsonSchemaValue:
        cls: Any = schema["cls"]
        found, words = super().dataclass_schema(schema), described(cls)
        for name, value in found["properties"].items():
            if name in words:
                value["description"] = words[name]
        found["description"] = _marked(inspect.cleandoc(cls.__doc__ or "").partition("Args:")[0].strip())
        return found

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False


@cache
def described(cls: Any) -> dict[str, str]:
    """What the docstring of ``cls`` says of its keys, a line each."""
    words: dict[str, str] = {}
    lines = inspect.cleandoc(cls.__doc__ or "").partition("Args:\n")[2].splitlines()
    margin = " " * (len(lines[0]) - len(lines[0].lstrip())) if lines else ""
    names: list[str] = []
    for line in lines:
        entry = re.fullmatch(rf"{margin}(\w+(?:, \w+)*): (.*)", line)
        if not line.startswith(margin) or not line.strip():
            break
        if entry:
            names = [spelled(name) for name in entry[1].split(", ")]
        for name in names:
            words[name] = f"{words.get(name, '')} {entry[2] if entry else line.strip()}".strip()
    return {name: _marked(text) for name, text in words.items()}


def _marked(text: str) -> str:
    """Text of a docstring as editors show it, in the words of YAML."""
    return text.replace("``None``", "null").replace("``", "`")


def nested(cls: Any) -> dict[dataclasses.Field[Any], Any]:
    """The fields of ``cls`` that hold a dataclass, or may, and that dataclass."""
    hints = typing.get_type_hints(cls)
    found = {
        field: next(filter(dataclasses.is_dataclass, arms(hints[field.name])), None)
        for field in dataclasses.fields(cls)
    }
    return {field: inner for field, inner in found.items() if inner is not None}


def default_of(field: dataclasses.Field[Any]) -> Any:
    """``dataclasses.MISSING`` where there is none."""
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def holder(cls: Any, path: Sequence[str | int]) -> Any:
    """The dataclass in which the last key of ``path``, keys and places in lists, stands."""
    hint, found = cls, cls
    for part in path:
        found = next((arm for arm in arms(hint) if dataclasses.is_dataclass(arm)), found)
        if isinstance(part, str):
            hint = {spelled(name): inner for name, inner in typing.get_type_hints(found).items()}.get(part)
        else:
            hint = next((typing.get_args(arm)[0] for arm in arms(hint) if typing.get_args(arm)), None)
    return found


def arms(hint: Any) -> tuple[Any, ...]:
    """The types that ``X | Y`` allows."""
    union = isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union
    return typing.get_args(hint) if union else (hint,)
