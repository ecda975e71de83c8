"""Several indexes become one, and nothing of any is lost."""

from pathlib import Path

import numpy as np
import pytest

from drivesim.cli import main
from drivesim.data.index import Index
from drivesim.errors import Mistake
from drivesim.jobs import index

WORLD = "name: w\nkind: world\nclips: {clips}\nseconds: 2\nfps: 15/8\nsize: [32, 64]\nseed: {seed}\nval: {val}\n"


@pytest.fixture
def two(tmp_path: Path) -> tuple[Path, Path]:
    for name, clips, seed, val in (("a", 3, 1, 0.0), ("b", 2, 2, 1.0)):
        (tmp_path / f"{name}.yaml").write_text(WORLD.format(clips=clips, seed=seed, val=val))
        index.run(tmp_path / f"{name}.yaml", tmp_path / name)
    return tmp_path / "a", tmp_path / "b"


def test_clips_boxes_and_splits_are_those_of_their_indexes(two: tuple[Path, Path], tmp_path: Path) -> None:
    assert main(["index", str(two[0]), "--join", str(two[1]), "--out", str(tmp_path / "both")]) == 0
    both, parts = Index.open(tmp_path / "both"), [Index.open(part) for part in two]
    assert [entry.clip_id for entry in both.entries] == [e.clip_id for part in parts for e in part.entries]
    assert {entry.split for entry in both.entries} == {"train", "val"}
    for part in parts:
        for entry in part.entries:
            same = next(e for e in both.entries if e.clip_id == entry.clip_id)
            assert same == entry and same.file.is_file()
            ours, theirs = both.boxes(entry.clip_id), part.boxes(entry.clip_id)
            assert ours is not None and theirs is not None and ours.time == theirs.time
            assert np.array_equal(ours.box, theirs.box) and ours.cls == theirs.cls


def test_a_drive_on_both_sides_is_told(
    two: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "again.yaml").write_text(WORLD.format(clips=2, seed=1, val=1.0).replace("seconds: 2", "seconds: 3"))
    index.run(tmp_path / "again.yaml", tmp_path / "again")
    index.join([*two], tmp_path / "apart")
    assert "held back in another" not in " ".join(capsys.readouterr().out.split())
    index.join([two[0], tmp_path / "again"], tmp_path / "both")
    assert "1 x drive of that name is trained on in one index and held back in another" in " ".join(
        capsys.readouterr().out.split()
    )


def test_what_cannot_be_joined(two: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(Mistake, match="holds a clip that"):
        index.join([two[0], two[1], two[0]], tmp_path / "no")
    with pytest.raises(Mistake, match="is not an index"):
        index.join([two[0], tmp_path], tmp_path / "no")
    assert not (tmp_path / "no").exists()
    assert main(["index", str(two[0]), "--join", str(two[1]), "--recipe", "r.yaml", "--out", str(tmp_path / "no")]) == 2
    assert "belongs to what is not indexed yet" in capsys.readouterr().err
