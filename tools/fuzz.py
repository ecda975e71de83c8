"""Files that others may hand us, mutated, against all that reads them: whatever is no ``Mistake`` is a finding.

    python tools/fuzz.py --minutes 60 --seed 1 --out runs/fuzz [--only coco --only scenario]

Valid files are made as the tests make them; hypothesis draws what is changed in one of them: bytes, tokens of text,
values of JSON, columns of tables, headers of safetensors. Readers take turns, a child process each, so that one that
dies is noticed. A finding is an exception other than ``Mistake``, a read of more than 5 s of processor time, one that
needs more than 1 GiB above what the process held before, or the process's death. It lies in ``--out`` as the folder
that was read, with the traceback, shrunk where it could be; one of each kind and place is kept. Exit status 1: there
are findings.
"""

import argparse
import faulthandler
import json
import random
import re
import resource
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import FrameType
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import pyarrow as pa  # noqa: E402
import pyarrow.parquet as pq  # noqa: E402
import torch  # noqa: E402
from hypothesis import HealthCheck, Phase, given, seed, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from pyarrow import feather  # noqa: E402

from drivesim import config, pickled, weights, yamlfile  # noqa: E402
from drivesim.data import video  # noqa: E402
from drivesim.data.annotations import Footage, Labelled, Remarks  # noqa: E402
from drivesim.data.formats.known import FORMATS, WRITTEN, of  # noqa: E402
from drivesim.data.index import Index  # noqa: E402
from drivesim.data.latents import LatentCache  # noqa: E402
from drivesim.data.sources import build, load_recipe  # noqa: E402
from drivesim.errors import Mistake  # noqa: E402
from drivesim.rollout import scenario  # noqa: E402
from drivesim.rollout.branch import part  # noqa: E402
from drivesim.rollout.journal import Journal  # noqa: E402
from drivesim.rollout.record import Record  # noqa: E402

SLOW, LARGE = 5.0, 1 << 30  # seconds of the processor, bytes: what a small file must not take
ROUND = 90  # seconds of a turn
STUCK = 120  # seconds after which a child that does not even work is taken for hung

ODD: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2**31, 2**63, 10**30, -(10**30), 1e308, -1e308, 5e-324, float("nan"), float("inf"),
    0.1, "", " ", "\0", "a" * 5000, "../../etc/passwd", "/etc/passwd", "1e400", "1/0", "\ud800", "\u202e", [], {},
    [[]], {"": None}, [None] * 3,
)  # fmt: skip
WORDS = (
    "", "0", "-1", "-0", "1", "nan", "inf", "-inf", "1e999", "1e-999", "99999999999999999999", "1_000", "0x10",
    "\u0663", "\u00bd", "1/0", "0/1", "1e5", "true", "null", "~", "[]", "{}", "[", "{", "&a", "*a", "<<", ": ", "- ",
    "!!python/name:os.system", "---", "'", '"', ",", ";", "\t", "\n", "\r", "\0", "\ufeff", "\u2028", "../..", "%",
    "#", "2026-02-30", "12:30:45", "0o17", "= ", "=", "y", "2001-01-01T00:00:00Z", "9" * 400, "1e100000",
    "-9223372036854775809",
)  # fmt: skip


class Hang(Exception):
    """A read that took too long."""


@dataclass(frozen=True)
class Target:
    """``make`` writes valid files into an empty folder; ``read`` reads them as the package does."""

    name: str
    make: Callable[[Path], object]
    read: Callable[[Path], object]


# --- what is read -----------------------------------------------------------------------------------------------------


def _formats() -> list[Target]:
    from tests.data.formats import test_argoverse, test_bad, test_nuscenes
    from tests.data.formats.test_all import drive

    def written(name: str) -> Callable[[Path], object]:
        def make(folder: Path) -> None:
            write = FORMATS[name].write
            assert write is not None
            write([drive()], folder / "ours", Fraction(10), Remarks())
            (folder / "theirs").mkdir()
            test_bad.WRITERS[name](test_bad.GOOD, folder / "theirs")

        return make

    def nuscenes(folder: Path) -> None:
        tables = test_nuscenes.drive(test_nuscenes.HALF_A_SECOND, test_nuscenes.CAR)
        test_nuscenes.written(folder / "ours" / "v1.0-mini", tables)

    def argoverse(folder: Path) -> None:
        test_argoverse.labelled_log(test_argoverse.calibrated(folder / "ours"), test_argoverse.CARS)

    makers = {form.name: written(form.name) for form in WRITTEN} | {"nuscenes": nuscenes, "argoverse": argoverse}
    genuine = ROOT.parent / "shared" / "data" / "permissive"
    if (genuine / "dgp" / "test_scene").is_dir():
        makers["dgp"] = lambda folder: _tables_of(genuine / "dgp" / "test_scene" / "scene_01", folder / "ours")
    return [Target(name, make, _labels(name)) for name, make in makers.items()]


def _tables_of(source: Path, folder: Path) -> None:
    for file in source.rglob("*.json"):
        if file.stat().st_size < 1 << 17:
            (folder / file.relative_to(source)).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, folder / file.relative_to(source))


def _labels(name: str) -> Callable[[Path], object]:
    footages = (Footage(), Footage((720, 1280), Fraction(5), 10), Footage((375, 1242), Fraction(30000, 1001), 100))

    def read(folder: Path) -> None:
        for place in sorted(folder.iterdir()):
            for form in FORMATS.values():
                form.claims(place)
            try:
                of(place)
            except Mistake:
                pass
            for footage in footages:
                remarks = Remarks()
                for labelled in _read(name, place, footage, remarks):
                    assert isinstance(labelled, Labelled) and (labelled.boxes.box >= 0).all()
                "".join(remarks.lines())

    return read


def _read(name: str, place: Path, footage: Footage, remarks: Remarks) -> list[Labelled]:
    try:
        return FORMATS[name].read(place, lambda _: footage, remarks)
    except Mistake as mistake:
        str(mistake)
        return []


def _index(folder: Path) -> None:
    from tests.data.numbered import write

    write(folder / "clips" / "a.mp4", 20, Fraction(10))
    build(folder / "clips", folder / "index")


def _read_index(folder: Path) -> None:
    opened = Index.open(folder / "index")
    for entry in opened.entries:
        opened.boxes(entry.clip_id)
        entry.check()


def _cache(folder: Path) -> None:
    import numpy as np

    from drivesim.data.latent_writer import LatentWriter
    from drivesim.data.latents import About

    _index(folder)
    about = About("0" * 64, "1" * 64, (64, 128), "10", 1, "32", (6, 8, 16))
    (folder / "latents").mkdir()
    with LatentWriter(folder / "latents", about) as writer:
        entry = Index.open(folder / "index").entries[0]
        writer.add(entry, np.zeros((20, 6, 8, 16), np.float32), Fraction(10), Fraction(0))
    shutil.rmtree(folder / "clips")
    shutil.rmtree(folder / "index")


def _read_cache(folder: Path) -> None:
    opened = LatentCache.open(folder / "latents")
    for sequence in opened.sequences:
        opened.read(sequence, 0, 1)


def _run(folder: Path) -> None:
    """A run folder of two windows, as far as a branch, a resumed run and a page look at it."""
    from drivesim.rollout.settings import RolloutConfig

    run = folder / "run"
    (run / "state").mkdir(parents=True)
    (run / "segments").mkdir()
    plan = {"hash": "0" * 64, "fps": "15/2", "total": 40, "plan": {"factor": 4}, "fixed": {"seed": 1, "noise": "x"}}
    (run / "plan.json").write_text(json.dumps(plan))
    (run / "run.json").write_text(json.dumps({"schema": "drivesim.run/1", "status": "done", "seconds": {"a": 1.0}}))
    (run / "config.yaml").write_text(config.to_yaml(RolloutConfig()))
    (run / "scenario.yaml").write_text("seconds: 5\nseeds: [1]\n")
    (run / "labels.parquet").write_bytes(b"PAR1")
    journal = Journal(run, "0" * 64)
    from drivesim.rollout.plan import Window
    from drivesim.rollout.stages import Segment

    for n in range(2):
        journal.segment_file(n).write_bytes(b"segment")
        window = Window(**{**dict.fromkeys(Window.__dataclass_fields__, 0), "n": n})
        state = {"latents": torch.zeros(1, 2)}
        journal.commit(Segment(window, journal.segment_file(n), 20 * n, 20 * n + 20, state))
    from tests.report.test_scores import scores

    (run / "scores.json").write_text(json.dumps(scores()))


def _read_run(folder: Path) -> None:
    from drivesim.jobs import report

    run = folder / "run"
    for look in (
        lambda: part(run, Fraction(3)),
        lambda: Journal(folder / "run", "0" * 64).resume(),
        lambda: Record(run, torch.device("cpu"), {}),
        lambda: report.run(run),
    ):
        try:
            look()
        except Mistake as mistake:
            str(mistake)


def _videos(folder: Path) -> None:
    from tests.data.bad import encode
    from tests.data.numbered import write

    write(folder / "a.mp4", 8, Fraction(10))
    for ending in ("mkv", "ts", "avi", "h264"):
        encode(folder / f"a.{ending}", count=8)


def _read_videos(folder: Path) -> None:
    for file in folder.iterdir():
        for look in (lambda file: video.probe(file), lambda file: list(video.stream(file, chunk=4))):
            try:
                look(file)
            except Mistake as mistake:
                str(mistake)


def _safetensors(folder: Path) -> None:
    header = weights.Header("image", {"channels": 4, "width": [1, 2]}, latent={"f": 8, "mean": [0.0]}, size=(8, 8))
    weights.save(folder / "image.safetensors", {"a.weight": torch.zeros(2, 3), "b": torch.ones(4)}, header)


def _read_safetensors(folder: Path) -> None:
    from drivesim.jobs import weights as weights_job

    for look in (weights.header, lambda file: weights.shapes([file]), weights.load, weights_job.check):
        try:
            look(folder / "image.safetensors")
        except Mistake as mistake:
            str(mistake)


def _pickles(folder: Path) -> None:
    torch.save({"a": torch.zeros(2), "b": {"c": torch.ones(3)}, "n": 3}, folder / "a.pt")
    torch.save({"a": torch.zeros(2)}, folder / "old.pt", _use_new_zipfile_serialization=False)
    torch.jit.script(torch.nn.Linear(2, 2)).save(folder / "program.pt")


def _read_pickles(folder: Path) -> None:
    for file in folder.iterdir():
        try:
            pickled.read(file)
        except Mistake as mistake:
            str(mistake)


SCENARIO = """\
version: 1
opening: {generate: {night: true, cars: 3}}
seconds: 12.5
fps: 15/2
size: [128, 256]
seeds: [1, 2]
labels: {night: false, cars: 2}
guidance: {context: 1.5}
boxes: tracks
tracks:
  - id: ahead
    class: car
    keys:
      - {t: 0, box: [0.4, 0.4, 0.6, 0.6], visibility: 0.5}
      - {t: 12, box: [0.3, 0.4, 0.5, 0.6], gone: true}
edits:
  - {op: insert, track: other, class: bus, keys: [{t: 1, box: [0.1, 0.1, 0.2, 0.2]}, {t: 3, box: [0, 0, 1, 1]}]}
  - {op: shift, track: ahead, by: [0.1, 0]}
  - {op: retime, track: ahead, by: [1], speed: 2}
  - {op: class, track: ahead, to: truck}
  - {op: delete, track: other}
"""


def _configs(folder: Path) -> None:
    from drivesim.jobs import train

    (folder / "scenario.yaml").write_text(SCENARIO)
    shutil.copy(ROOT / "datasets" / "nuscenes" / "recipe.yaml", folder / "recipe.yaml")
    for file in (ROOT / "configs" / "tiny").glob("*.yaml"):
        if file.stem in train.STAGES:
            shutil.copy(file, folder)


def _read_configs(folder: Path) -> None:
    from drivesim.jobs import train
    from drivesim.rollout.placed import placed

    for file in folder.iterdir():
        try:
            if file.stem == "scenario":
                with config.located(file):
                    found = placed(scenario.load(file), (128, 256))
                    if found is not None:
                        found.told.at([Fraction(n) for n in range(13)])
            elif file.stem == "recipe":
                load_recipe(file)
            else:
                config.load(train.STAGES[file.stem][0], file)
        except Mistake as mistake:
            assert 1 <= len(str(mistake).splitlines()) <= 3, str(mistake)


def _override(folder: Path) -> None:
    (folder / "overrides.txt").write_text("loop.steps=100\nmodel.width=[1, 2]\nloop.lr=1e-3\nindex=runs/world\n")


def _read_override(folder: Path) -> None:
    from drivesim.jobs import train

    for line in (folder / "overrides.txt").read_bytes().decode(errors="surrogateescape").splitlines()[:50]:
        try:
            config.load(train.STAGES["autoencoder"][0], None, [line])
        except Mistake as mistake:
            assert 1 <= len(str(mistake).splitlines()) <= 3, str(mistake)


def targets() -> list[Target]:
    return [
        *_formats(),
        Target("index", _index, _read_index),
        Target("cache", _cache, _read_cache),
        Target("run", _run, _read_run),
        Target("video", _videos, _read_videos),
        Target("safetensors", _safetensors, _read_safetensors),
        Target("pickles", _pickles, _read_pickles),
        Target("configs", _configs, _read_configs),
        Target("overrides", _override, _read_override),
    ]


# --- how it is changed ------------------------------------------------------------------------------------------------


def mutated(name: str, data: bytes, draw: random.Random) -> bytes:
    """``data`` with one to four changes that its kind of file understands, or that none does."""
    for _ in range(draw.randint(1, 4)):
        ways = [_bytes]
        for endings, way in (
            ((".json",), _json),
            ((".jsonl",), _json_line),
            ((".safetensors",), _header),
            ((".parquet", ".feather"), _table),
            ((".json", ".jsonl", ".xml", ".csv", ".txt", ".ini", ".yaml"), _tokens),
            ((".yaml",), _yaml),
        ):
            if name.endswith(endings):
                ways += [way, way]
        try:
            data = draw.choice(ways)(data, draw)
        except (ValueError, KeyError, IndexError, TypeError, RecursionError, OSError, struct.error, Mistake):
            pass  # an earlier change left nothing that this one could be made in
        except pa.ArrowException:
            pass
    return data


def _bytes(data: bytes, draw: random.Random) -> bytes:
    out = bytearray(data)
    at = draw.randrange(len(out) + 1)
    kind = draw.randrange(5)
    if kind == 0 and out:
        out[at % len(out)] ^= 1 << draw.randrange(8)
    elif kind == 1:
        del out[at:]
    elif kind == 2:
        out[at:at] = bytes(draw.randrange(256) for _ in range(draw.randint(1, 8)))
    elif kind == 3:
        out[at : at + 4] = draw.choice((b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\0\0\0\1"))
    else:
        end = min(len(out), at + draw.randint(1, 200))
        out[at:at] = out[at:end]
    return bytes(out)


def _tokens(data: bytes, draw: random.Random) -> bytes:
    """A word, a number or a line of text is replaced, doubled or taken away."""
    text = data.decode()
    pieces = re.split(r"(\n)" if draw.randrange(4) == 0 else r"([\s,;:=<>\"'/\[\]{}]+)", text)
    at = draw.randrange(len(pieces))
    kind = draw.randrange(4)
    if kind == 0:
        pieces[at] = draw.choice(WORDS)
    elif kind == 1:
        del pieces[at]
    elif kind == 2:
        pieces.insert(at, pieces[draw.randrange(len(pieces))])
    else:
        pieces[at] = pieces[at] * draw.choice((2, 3, 1000))
    return "".join(pieces).encode(errors="surrogatepass")


def _json(data: bytes, draw: random.Random) -> bytes:
    return json.dumps(changed(json.loads(data), draw)).encode()


def _json_line(data: bytes, draw: random.Random) -> bytes:
    """One line of a journal changes; half of the time those behind it name it again, so that the chain holds."""
    import hashlib

    lines = data.decode().splitlines()
    at = draw.randrange(len(lines))
    lines[at] = json.dumps(changed(json.loads(lines[at]), draw))
    if draw.randrange(2):
        for n in range(at + 1, len(lines)):
            entry = json.loads(lines[n])
            lines[n] = json.dumps({**entry, "previous": hashlib.sha256(lines[n - 1].encode()).hexdigest()})
    return "".join(f"{line}\n" for line in lines).encode()


def _yaml(data: bytes, draw: random.Random) -> bytes:
    return yamlfile.dump(changed(yamlfile._content(data.decode(), None), draw)).encode()


def changed(value: Any, draw: random.Random) -> Any:
    """One value somewhere in what JSON holds becomes another, goes, or comes twice."""
    if isinstance(value, (dict, list)) and value and draw.randrange(8):
        keys = list(value) if isinstance(value, dict) else range(len(value))
        key = keys[draw.randrange(len(keys))]
        kind = draw.randrange(10)
        if kind == 0:
            value = {k: v for k, v in value.items() if k != key} if isinstance(value, dict) else value[:-1]
        elif kind == 1 and isinstance(value, list):
            value = [*value, value[key]] if draw.randrange(8) else [*value, *[value[key]] * 2000]
        elif kind == 2 and isinstance(value, dict):
            value = {**value, draw.choice(("", "id", "a b", "\0", "0")): draw.choice(ODD)}
        else:
            inner = changed(value[key], draw)
            value = {**value, key: inner} if isinstance(value, dict) else [*value[:key], inner, *value[key + 1 :]]
        return value
    kind = draw.randrange(6)
    if kind == 0 and isinstance(value, (int, float)) and not isinstance(value, bool):
        return -value if draw.randrange(2) else value * 10**6
    if kind == 1:
        return [value]
    if kind == 2:
        return str(value)
    if kind == 3 and draw.randrange(20) == 0:
        return _deep(draw.choice((50, 900, 20_000)))
    return draw.choice(ODD)


def _deep(levels: int) -> Any:
    value: Any = 0
    for _ in range(levels):
        value = [value]
    return value


def _header(data: bytes, draw: random.Random) -> bytes:
    (length,) = struct.unpack("<Q", data[:8])
    header, rest = json.loads(data[8 : 8 + length]), data[8 + length :]
    if draw.randrange(2) and "drivesim" in header.get("__metadata__", {}):
        inner = changed(json.loads(header["__metadata__"]["drivesim"]), draw)
        header["__metadata__"]["drivesim"] = json.dumps(inner)
    else:
        header = changed(header, draw)
    text = json.dumps(header).encode()
    length = len(text) if draw.randrange(4) else draw.choice((0, 1, 2**32, 2**63, len(text) + 1, 100_000_000))
    return struct.pack("<Q", length) + text + rest


def _table(data: bytes, draw: random.Random) -> bytes:
    parquet = data[:4] == b"PAR1"
    table = pq.read_table(pa.BufferReader(data)) if parquet else feather.read_table(pa.BufferReader(data))
    at = draw.randrange(table.num_columns)
    name, kind = table.column_names[at], draw.randrange(6)
    if kind == 0:
        table = table.drop_columns([name])
    elif kind == 1:
        table = table.set_column(at, name, table.column(at).cast(pa.string(), safe=False))
    elif kind == 2:
        table = table.set_column(at, name, pa.nulls(table.num_rows))
    elif kind == 3:
        table = table.append_column(name, table.column(at))
    elif kind == 4 and table.num_rows:
        table = pa.concat_tables([table, *[table.slice(draw.randrange(table.num_rows), 1)] * draw.choice((1, 500))])
    elif table.num_rows:
        values, odd = table.column(at).to_pylist(), draw.choice(ODD)
        values[draw.randrange(len(values))] = odd
        try:
            table = table.set_column(at, name, pa.array(values, table.schema.field(at).type))
        except (pa.ArrowException, UnicodeEncodeError, OverflowError):
            table = table.set_column(at, name, pa.array([repr(value) for value in values]))
    out = pa.BufferOutputStream()
    if parquet:
        pq.write_table(table, out)
    else:
        feather.write_feather(table, out)
    return out.getvalue().to_pybytes()


# --- the run ----------------------------------------------------------------------------------------------------------


def _stop(_: int, frame: FrameType | None) -> None:
    raise Hang(f"more than {SLOW} s")


def _place_of(problem: BaseException) -> str:
    """The kind of the problem and the innermost line of the package in it: findings that share it are one."""
    inside = [f for f in traceback.extract_tb(problem.__traceback__) if "/drivesim/" in f.filename]
    last = inside[-1] if inside else traceback.extract_tb(problem.__traceback__)[-1]
    return f"{type(problem).__name__}-{Path(last.filename).stem}-{last.lineno}"


def one_round(target: Target, seconds: float, number: int, out: Path) -> int:
    """Draws and reads for ``seconds``; returns how many were read."""
    current, ends, count = out / "current", time.monotonic() + seconds, 0
    known = {folder.name.partition(".")[2] for folder in out.glob("finding-*")}
    with tempfile.TemporaryDirectory() as place:
        whole = Path(place) / "whole"
        whole.mkdir()
        target.make(whole)
        files = {f.relative_to(whole).as_posix(): f.read_bytes() for f in sorted(whole.rglob("*")) if f.is_file()}
        folders = [f.relative_to(whole) for f in whole.rglob("*") if f.is_dir()]
        target.read(whole)  # all that is imported late is, before memory is bounded
        held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (held + LARGE, resource.RLIM_INFINITY))
        signal.signal(signal.SIGPROF, _stop)

        def attempt(draw: random.Random) -> None:
            nonlocal count
            if time.monotonic() > ends:
                return
            count += 1
            shutil.rmtree(current, ignore_errors=True)
            name = draw.choice(sorted(files))
            for folder in folders:
                (current / folder).mkdir(parents=True, exist_ok=True)
            for each, data in files.items():
                (current / each).parent.mkdir(parents=True, exist_ok=True)
                (current / each).write_bytes(mutated(name, data, draw) if each == name else data)
            faulthandler.dump_traceback_later(STUCK, exit=True, file=log)
            signal.setitimer(signal.ITIMER_PROF, SLOW)
            try:
                target.read(current)
            except Mistake:
                pass
            except (Exception, RecursionError) as problem:
                signal.setitimer(signal.ITIMER_PROF, 0)
                key = f"{target.name}.{_place_of(problem)}"
                if key.partition(".")[2] in known:
                    return
                _keep(current, out, key, traceback.format_exc())
                if isinstance(problem, (Hang, MemoryError)):  # to shrink these would take hours
                    known.add(key.partition(".")[2])
                    return
                raise
            finally:
                signal.setitimer(signal.ITIMER_PROF, 0)
                faulthandler.cancel_dump_traceback_later()

        with open(out / "stack.txt", "w") as log:
            begun = number
            while time.monotonic() < ends:
                begun += 1
                test = given(st.randoms(use_true_random=False))(attempt)
                test = settings(
                    max_examples=300,
                    deadline=None,
                    database=None,
                    phases=(Phase.generate, Phase.shrink),
                    suppress_health_check=list(HealthCheck),
                )(test)
                try:
                    seed(begun)(test)()
                except Exception as problem:
                    known.add(_place_of(problem))
                except BaseExceptionGroup as several:
                    known |= {_place_of(problem) for problem in several.exceptions}
    return count


def _keep(current: Path, out: Path, key: str, text: str) -> None:
    """The smallest of a kind replaces the others: hypothesis shows the shrunk one last."""
    folder = out / f"finding-{key}"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(current, folder / "files", symlinks=True)
    (folder / "traceback.txt").write_text(text, encoding="utf-8", errors="backslashreplace")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60, help="when to stop (default 60)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/fuzz"))
    parser.add_argument("--only", action="append", help="one reader; may be repeated")
    parser.add_argument("--round", metavar="NAME", help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    if args.round:
        target = next(target for target in targets() if target.name == args.round)
        print(one_round(target, args.minutes * 60, args.seed, args.out))
        return 0
    names = [target.name for target in targets() if not args.only or target.name in args.only]
    begin, turn, reads = time.monotonic(), 0, dict.fromkeys(names, 0)
    while (left := args.minutes * 60 - (time.monotonic() - begin)) > 0:
        name = names[turn % len(names)]
        words = ["--round", name, "--minutes", str(min(ROUND, left) / 60), "--seed", str(args.seed + 1000 * turn)]
        child = subprocess.run(
            [sys.executable, "-P", __file__, *words, "--out", str(args.out)], capture_output=True, text=True
        )
        said = child.stdout.split()
        if child.returncode == 0 and said:
            reads[name] += int(said[-1])
        else:
            log = (args.out / "stack.txt").read_text() if (args.out / "stack.txt").exists() else ""
            _keep(args.out / "current", args.out, f"{name}.died-{child.returncode}", f"{child.stderr[-4000:]}\n{log}")
        turn += 1
        summary = {"minutes": round((time.monotonic() - begin) / 60, 1), "seed": args.seed, "reads": reads}
        summary["findings"] = sorted(folder.name for folder in args.out.glob("finding-*"))
        (args.out / "summary.json").write_text(json.dumps(summary, indent=1))
    print((args.out / "summary.json").read_text())
    return 1 if summary["findings"] else 0


if __name__ == "__main__":
    sys.exit(main())
