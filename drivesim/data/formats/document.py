"""JSON that others wrote, taken apart with a ``Mistake`` wherever it is not what it should be."""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from drivesim.errors import Mistake


@dataclass(frozen=True)
class Part:
    """A value in a JSON file.

    Args:
        value: what ``json`` made of it.
        file: which it lies in.
        at: its way there from the file's top, such as ``data[3].box``.
    """

    value: Any
    file: Path
    at: str = ""

    def __getitem__(self, key: str) -> "Part":
        if key not in self:
            self.wrong(f"has no '{key}'" if isinstance(self.value, dict) else "is not an object")
        return Part(self.value[key], self.file, f"{self.at}.{key}".lstrip("."))

    def __contains__(self, key: str) -> bool:
        return isinstance(self.value, dict) and key in self.value

    def names(self) -> list[str]:
        """The keys of an object."""
        if not isinstance(self.value, dict):
            self.wrong("is not an object")
        return list(self.value)

    def rows(self) -> list["Part"]:
        """The values of a list."""
        if not isinstance(self.value, list):
            self.wrong("is not a list")
        return [Part(value, self.file, f"{self.at}[{i}]") for i, value in enumerate(self.value)]

    def text(self) -> str:
        if not isinstance(self.value, str):
            self.wrong("is not a text")
        return self.value

    def number(self) -> float:
        """A finite one."""
        if isinstance(self.value, bool) or not isinstance(self.value, (int, float)):
            self.wrong("is not a number")
        try:
            number = float(self.value)
        except OverflowError:
            number = math.inf
        if not math.isfinite(number):
            self.wrong("is not a finite number")
        return number

    def whole(self) -> int:
        """A whole number, exact however large."""
        if isinstance(self.value, bool) or not isinstance(self.value, int):
            self.wrong("is not a whole number")
        return self.value

    def numbers(self, count: int) -> tuple[float, ...]:
        rows = self.rows()
        if len(rows) != count:
            self.wrong(f"has {len(rows)} numbers, not {count}")
        return tuple(row.number() for row in rows)

    def wrong(self, what: str) -> NoReturn:
        """Raises:
        Mistake: always; it names the file and the place in it.
        """
        raise Mistake(f"{self.at or 'the file'} {what}", where=self.file)


def opened(file: Path) -> Part:
    """Raises:
    Mistake: the file is missing, or not JSON.
    """
    try:
        return Part(json.loads(file.read_bytes()), file)
    except OSError as problem:
        raise Mistake(f"cannot be read: {problem.strerror}", where=file) from None
    except (ValueError, RecursionError) as problem:
        raise Mistake(f"is not JSON ({problem})", where=file) from None
