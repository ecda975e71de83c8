"""Wherever a rollout cannot write a file: one line that names it, and --resume ends with the same video.

A full disk is a real one, small and mounted for the test; the others are injected where the file is opened.
"""

import errno
import json
from pathlib import Path

import pytest

from drivesim.data import video
from drivesim.errors import Mistake
from drivesim.rollout.engine import roll

from .test_engine import digest, planned

FILES = {
    "lock": "lock",
    ".scenario.yaml.*.part": "scenario.yaml",
    ".config.yaml.*.part": "config.yaml",
    ".plan.json.*.part": "plan.json",
    "log.txt": "log.txt",
    ".run.json.*.part": "run.json",
    ".journal.jsonl.*.part": "journal.jsonl",
    "journal.jsonl": "journal.jsonl",
    ".000002.mp4.*.part": "000002.mp4",
    ".keyframes-000002.safetensors.*.part": "keyframes-000002.safetensors",
    ".video.mp4.*.part": "video.mp4",
    ".labels.parquet.*.part": "labels.parquet",
}
KINDS = {
    errno.ENOSPC: "No space left on device",
    errno.EACCES: "Permission denied",
    errno.EROFS: "Read-only file system",
}
EMPTY = {(errno.ENOSPC, ".journal.jsonl.*.part")}  # nothing is written of it: no disk is too full for that


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return roll(planned(), tmp_path_factory.mktemp("whole") / "run")


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("code", KINDS)
def test_every_write_of_a_rollout(whole: Path, small_disk: Path, obstacle, code: int, file: str) -> None:
    if (code, file) in EMPTY:
        return
    run = small_disk / "run"
    obstacle.put(code, file, small_disk if code == errno.ENOSPC else None)
    with pytest.raises(Mistake) as told:
        roll(planned(), run)
    obstacle.remove()
    (small_disk / "filler").unlink(missing_ok=True)
    assert obstacle.met and str(told.value).endswith(f"{FILES[file]}: cannot be written: {KINDS[code]}")
    assert len(str(told.value).splitlines()) == 1 and not list(run.rglob("*.part"))
    for segment in run.glob("segments/*.mp4"):
        assert digest(segment) == digest(whole / "segments" / segment.name)
    assert run.exists() == (run / "plan.json").exists(), "before a run has begun, nothing of it stays"
    roll(planned(), run, resume=True)
    assert digest(run / "video.mp4") == digest(whole / "video.mp4")
    assert digest(run / "journal.jsonl") == digest(whole / "journal.jsonl")
    assert {each.name for each in run.iterdir()} == {each.name for each in whole.iterdir()}
    assert json.loads((run / "run.json").read_text())["status"] == "done"


def test_a_disk_that_fills_up_on_the_way(whole: Path, small_disk: Path) -> None:
    """Whatever it comes into: nothing that stands there is half, and --resume ends with the same video."""
    run, told = small_disk / "run", 0
    filler = small_disk / "filler"
    filler.write_bytes(bytes((24 << 20) - 40_000))
    while True:
        try:
            roll(planned(), run, resume=run.exists())
            break
        except Mistake as mistake:
            assert str(mistake).endswith("cannot be written: No space left on device"), str(mistake)
            for segment in run.glob("segments/*.mp4"):
                assert video.probe(segment).frames and digest(segment) == digest(whole / "segments" / segment.name)
            told += 1
            with open(filler, "rb+") as held:
                held.truncate(filler.stat().st_size - 8_000)
    assert told > 1 and digest(run / "video.mp4") == digest(whole / "video.mp4")
