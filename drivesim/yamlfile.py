"""YAML files: the plain values that they hold, and the line on which each of them stands.

A tag that names Python objects is an error. Two things differ from PyYAML, which follows YAML 1.1 and silently keeps
the last of two equal keys: 1e-4 is a number, and a key that is given twice is an error.
"""

import re
from pathlib import Path
from typing import Any

import yaml

from drivesim.errors import Mistake, beside

LARGEST = 16 << 20  # bytes of a file
DEEPEST = 100  # brackets in brackets
MOST = 1_000_000  # values of a file, those that aliases stand for counted wherever they stand
EXPONENT = re.compile(r"[-+]?\d[\d_]*(\.\d*)?[eE][-+]?\d+$")


class _Loader(yaml.SafeLoader):
    def fetch_flow_collection_start(self, kind: type) -> None:
        if self.flow_level > DEEPEST:  # PyYAML's time grows with the square of the levels
            raise RecursionError
        super().fetch_flow_collection_start(kind)


class _Dumper(yaml.SafeDumper):
    pass


for _each in (_Loader, _Dumper):  # the dumper too, so that it quotes a word that would be read as a number
    _each.add_implicit_resolver("tag:yaml.org,2002:float", EXPONENT, list("-+0123456789"))


def parse(text: str) -> Any:
    """The value that ``text`` of the command line holds.

    Raises:
        ValueError: it is not YAML.
        Mistake: a key given twice, a value that holds itself.
    """
    try:
        return _content(text, None)
    except yaml.YAMLError as problem:
        raise ValueError(str(problem)) from None


def dump(values: Any) -> str:
    return yaml.dump(values, Dumper=_Dumper, sort_keys=False)


def read(file: str | Path) -> dict[str, Any]:
    """The mapping in ``file``; an empty file holds none.

    Raises:
        Mistake: no such file, not text, not YAML, a key given twice, a value that holds itself, not a mapping.
    """
    try:
        if Path(file).is_file() and Path(file).stat().st_size > LARGEST:
            raise Mistake(f"is larger than {LARGEST >> 20} MiB, which no settings are", where=file)
        content = _content(Path(file).read_text(encoding="utf-8"), file)
    except FileNotFoundError:
        raise Mistake("no such file", where=file, mend=beside(file) or "see configs/ for those that exist") from None
    except IsADirectoryError:
        raise Mistake("is a folder", where=file, mend="a YAML file is expected") from None
    except (OSError, UnicodeDecodeError) as problem:
        words = problem.strerror if isinstance(problem, OSError) else "it is not UTF-8"
        raise Mistake(f"cannot be read: {words}", where=file) from None
    except (yaml.YAMLError, ValueError) as problem:  # ValueError: a date that no calendar has
        mark = getattr(problem, "problem_mark", None)
        what = f"not YAML: {getattr(problem, 'problem', None) or problem}"
        raise Mistake(what, where=_place(file, mark.line + 1) if mark else file) from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise Mistake(f"a mapping of keys is expected, not a {type(content).__name__}", where=file)
    return content


def _content(text: str, file: str | Path | None) -> Any:
    loader = _Loader(text)
    try:
        root = loader.get_single_node()
        if root is None:
            return None
        _check(root, file, "", {})
        if _size(root, {}) > MOST:
            what = f"its aliases stand for more than {MOST} values"
            raise Mistake(what, where=file or "command line", mend="write out what is meant")
        return loader.construct_document(root)
    except RecursionError:
        raise Mistake("is nested too deeply", where=file or "command line") from None


def _size(node: yaml.Node, known: dict[int, int]) -> int:
    """How many values ``node`` is once every alias is replaced by what it stands for; ``known`` by node."""
    if id(node) not in known:
        known[id(node)] = 1 + sum(_size(inner, known) for _, _, inner in _inside(node))
    return known[id(node)]


def line_of(file: str | Path, field: str) -> int | None:
    """The line of ``field``, a path such as ``edits[1].op``; of what should hold it, where it is not there; None where
    nothing of it is."""
    return _line(yaml.compose(Path(file).read_text(encoding="utf-8"), _Loader), field)


def _line(node: yaml.Node | None, field: str) -> int | None:
    for name, place, inner in _inside(node):
        rest = field.removeprefix(name)
        if rest != field and (not rest or rest[0] in ".["):
            return _line(inner, rest.removeprefix(".")) or place
    return None


def _check(node: yaml.Node, file: str | Path | None, path: str, done: dict[int, bool]) -> None:
    """Refuses a key given twice, a key that is no word, and an alias within what it stands for."""
    if done.get(id(node)) is False:
        where = _place(file, node.start_mark.line + 1)
        raise Mistake("holds itself", where=where, field=path or None, mend="an alias stands for something else")
    if id(node) in done:
        return
    done[id(node)] = False
    for key in (key for key, _ in node.value) if isinstance(node, yaml.MappingNode) else ():
        if not isinstance(key, yaml.ScalarNode):
            raise Mistake("a key is a word", where=_place(file, key.start_mark.line + 1), field=path or None)
    lines: dict[str, int] = {}
    for name, line, inner in _inside(node):
        full = f"{path}{name}" if name.startswith("[") else f"{path}.{name}".removeprefix(".")
        if name in lines:
            what = f"is given twice, first on line {lines[name]}"
            raise Mistake(what, where=_place(file, line), field=full, mend="keep one of them")
        lines[name] = line
        _check(inner, file, full, done)
    done[id(node)] = True


def _place(file: str | Path | None, line: int) -> str:
    return f"{file} line {line}" if file else "command line"


def _inside(node: yaml.Node | None) -> list[tuple[str, int, yaml.Node]]:
    """The name, the line and the value of everything that ``node`` holds."""
    if isinstance(node, yaml.MappingNode):
        return [(str(key.value), key.start_mark.line + 1, value) for key, value in node.value]
    if isinstance(node, yaml.SequenceNode):
        return [(f"[{n}]", item.start_mark.line + 1, item) for n, item in enumerate(node.value)]
    return []
