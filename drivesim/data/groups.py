"""A Parquet table that is read a group of rows at a time: a million rows take no more memory than a thousand."""

from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from drivesim.data.store import Files
from drivesim.errors import Mistake

KEPT = 1 << 16  # rows of a table that stay decoded


class Groups:
    """A table whose columns are those of ``schema``, in their order, nothing missing where nothing may be.

    Nothing but the footer is read on opening, and the columns that the file holds as other types or with gaps; what is
    damaged elsewhere is noticed where it is read. A column that may have gaps may be missing: nothing is known.

    Args:
        place: of the files, for messages.
        mend: what to do about a table that is not whole.

    Raises:
        Mistake: not whole, or another table; also of every method that reads.
    """

    def __init__(self, files: Files, name: str, schema: pa.Schema, place: str | Path, mend: str):
        self._files, self._name, self.schema, self.mend = files, name, schema, mend
        self.file = f"{place}/{name}"
        self._kept = OrderedDict[int, pa.Table]()
        with self._whole():
            metadata, held = self._opened.metadata, self._opened.schema_arrow
            self._missing = {field.name for field in schema if field.nullable} - set(held.names)
            there = [field for field in schema if field.name not in self._missing]
            self._odd = [field.name for field in there if not _same(held.field(field.name), field)]
            self._ends = np.cumsum([metadata.row_group(n).num_rows for n in range(metadata.num_row_groups)], dtype=int)
        for _ in self.scan(*self._odd) if self._odd else ():
            pass

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def scan(self, *names: str) -> Iterator[pa.Table]:
        """The columns ``names``, of all rows, group by group."""
        for n in range(len(self._ends)):
            yield self._read(n, names)

    def rows(self, first: int, count: int = 1) -> list[dict[str, Any]]:
        """``count`` rows from row ``first`` on."""
        found: list[dict[str, Any]] = []
        while len(found) < count:
            n = int(np.searchsorted(self._ends, first + len(found), side="right"))
            begin = int(self._ends[n - 1]) if n else 0
            found += self._whole_group(n).slice(first + len(found) - begin, count - len(found)).to_pylist()
        return found

    def runs(self, name: str) -> Iterator[tuple[str, int, int]]:
        """Rows that follow each other and have the same word in the column ``name``: the word, the first row, how many.

        A run ends where a group does.
        """
        first = 0
        with self._whole():
            coded = pq.ParquetFile(self._files.source(self._name), pre_buffer=False, read_dictionary=[name])
        for n in range(len(self._ends)):
            with self._whole():
                column = coded.read_row_group(n, [name], use_threads=False)[name].combine_chunks()
                coded_as = column if pa.types.is_dictionary(column.type) else column.dictionary_encode()
                words, codes = coded_as.dictionary.to_pylist(), coded_as.indices.to_numpy(zero_copy_only=False)
            starts = np.flatnonzero(np.diff(codes, prepend=-1)).tolist()
            for start, end in zip(starts, [*starts[1:], len(codes)], strict=True):
                yield words[int(codes[start])], first + start, end - start
            first += len(codes)

    @cached_property
    def _opened(self) -> pq.ParquetFile:
        return pq.ParquetFile(self._files.source(self._name), pre_buffer=False)

    def _whole_group(self, n: int) -> pa.Table:
        """Of all columns; the last ones stay decoded."""
        if n not in self._kept:
            self._kept[n] = self._read(n, self.schema.names)
            while len(self._kept) > 1 and sum(map(len, self._kept.values())) > KEPT:
                self._kept.popitem(last=False)
        self._kept.move_to_end(n)
        return self._kept[n]

    def _read(self, n: int, names: tuple[str, ...] | list[str]) -> pa.Table:
        wanted = pa.schema([self.schema.field(name) for name in names])
        there = [name for name in names if name not in self._missing]
        with self._whole():
            # one thread: the pool of Arrow's does not outlive the fork of a loader's worker
            read = self._opened.read_row_group(n, there, use_threads=False).select(there)
            columns = [pa.nulls(len(read), f.type) if f.name in self._missing else read.column(f.name) for f in wanted]
            read = pa.table(columns, names=list(names)).cast(wanted)
        gone = next((f.name for f in wanted if not f.nullable and read.column(f.name).null_count), None)
        if gone:
            raise Mistake(f"has no '{gone}' in some of its rows", where=self.file, mend=self.mend)
        return read

    @contextmanager
    def _whole(self) -> Iterator[None]:
        try:
            yield
        except (pa.ArrowException, OSError, ValueError, KeyError) as problem:
            what = " ".join(str(problem).split())[:120]
            raise Mistake(f"cannot be read ({what})", where=self.file, mend=self.mend) from None

    def __getstate__(self) -> dict[str, Any]:
        """Without the open file: a worker opens its own."""
        state = {name: value for name, value in self.__dict__.items() if name != "_opened"}
        return state | {"_kept": OrderedDict()}


def _same(held: pa.Field, wanted: pa.Field) -> bool:
    return held.type == wanted.type and (wanted.nullable or not held.nullable)
