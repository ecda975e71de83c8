"""Weight files: round trip, what is refused, and that a file is whole or not there."""

import json
import os
import struct
from dataclasses import asdict
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import nn

from drivesim import disk, weights
from drivesim.errors import Mistake
from drivesim.weights import Header

HEADER = Header(
    stage="image",
    config={"channels": [1, 2], "deep": {"a": None}},
    parents={"autoencoder": "ab" * 32},
    size=(64, 128),
    latent={"mean": [0.5, -1.0]},
)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "new" / "image.safetensors"
    weights.save(path, {"a": torch.arange(6.0).reshape(2, 3), "n": torch.tensor([3])}, HEADER)
    return path


def test_round_trip(file: Path) -> None:
    tensors, header = weights.load(file, "image")
    assert weights.Header(**{**vars(header), "size": tuple(header.size)}) == HEADER
    assert torch.equal(tensors["a"], torch.arange(6.0).reshape(2, 3)) and tensors["n"].dtype == torch.int64


def test_the_hash_returned_is_that_of_the_file_and_saving_is_deterministic(tmp_path: Path) -> None:
    content = {"b": torch.ones(3), "a": torch.zeros(2)}
    first = weights.save(tmp_path / "1", content, HEADER)
    second = weights.save(tmp_path / "2", dict(reversed(content.items())), HEADER)
    assert first == second == disk.sha256(tmp_path / "1")


def test_a_file_is_byte_for_byte_what_the_library_writes(tmp_path: Path) -> None:
    """Of every kind of number, none and empty shapes, names and words that JSON has to escape."""
    kinds = {f"{kind}": torch.tensor([1, 0, 3]).to(kind) for kind in weights.KINDS}
    content = {
        **kinds,
        "scalar": torch.tensor(2.5),
        "none": torch.zeros(0, 3),
        "b.ä": torch.rand(2, 3).T,
        "b": torch.ones(5),
    }
    header = Header("image", {"words": 'ä "quoted" \\ \n \u2028'})
    told = {"drivesim": json.dumps(asdict(header), sort_keys=True)}
    weights.save(tmp_path / "ours", content, header)
    packed = {name: tensor.contiguous() for name, tensor in content.items()}
    assert (tmp_path / "ours").read_bytes() == safetensors.torch.save(packed, told)
    weights.save_public(tmp_path / "public", {**content, "again": content["b"]})  # shared storage, as tied weights
    packed["again"] = packed["b"].clone()
    assert (tmp_path / "public").read_bytes() == safetensors.torch.save(packed, {"format": "pt"})
    other = tmp_path / "plain"
    other.write_bytes(b"")
    assert (tmp_path / "ours").stat().st_mode == other.stat().st_mode, "as readable as other files"


def test_halved_weights_come_back_as_float32(tmp_path: Path) -> None:
    weights.save(tmp_path / "w", weights.halve({"a": torch.tensor([1.0, 2.5]), "n": torch.tensor([7])}), HEADER)
    tensors, _ = weights.load(tmp_path / "w")
    assert tensors["a"].dtype == torch.float32 and tensors["a"].tolist() == [1.0, 2.5] and tensors["n"].tolist() == [7]


def test_weights_of_another_stage(file: Path) -> None:
    assert weights.header(file, ("keyframes", "image")).stage == "image"
    with pytest.raises(Mistake, match="weights of stage 'image', not 'autoencoder'"):
        weights.load(file, "autoencoder")


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(Mistake, match="no such weight file"):
        weights.load(tmp_path / "none.safetensors")


@pytest.mark.parametrize("keep", [0, 4, 40, -1])
def test_truncated(file: Path, keep: int) -> None:
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(Mistake, match="not a whole safetensors file"):
        weights.load(file, "image")


def test_a_pickle_is_not_opened(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(1)}, tmp_path / "w.safetensors")
    with pytest.raises(Mistake, match="not a whole safetensors file"):
        weights.load(tmp_path / "w.safetensors")


@pytest.mark.parametrize(
    ("metadata", "says"),
    [
        ({}, "without a drivesim header"),
        ({"drivesim": "{"}, "cannot be read"),
        ({"drivesim": json.dumps({"stage": "image", "config": {}, "colour": 1})}, "cannot be read"),
        ({"drivesim": json.dumps({"stage": "image", "config": {}, "format": 2})}, "its format is 2"),
    ],
)
def test_foreign_headers(tmp_path: Path, metadata: dict[str, str], says: str) -> None:
    text = json.dumps({"__metadata__": metadata}).encode()
    (tmp_path / "w").write_bytes(struct.pack("<Q", len(text)) + text)
    with pytest.raises(Mistake, match=says):
        weights.header(tmp_path / "w")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda t: t.pop("bias"), "tensors missing: bias"),
        (lambda t: t.update(extra=torch.ones(1)), "tensors unknown: extra"),
        (lambda t: t.update(weight=torch.ones(3, 2)), "tensors of another shape: weight"),
    ],
)
def test_tensors_that_do_not_fit_change_nothing(change, says: str) -> None:
    module = nn.Linear(3, 2)
    before = module.weight.clone()
    tensors = {"weight": torch.ones(2, 3), "bias": torch.ones(2)}
    change(tensors)
    with pytest.raises(Mistake, match=says):
        weights.fill(module, tensors, "w.safetensors")
    assert torch.equal(module.weight, before)


def test_fill() -> None:
    module = nn.Linear(3, 2)
    weights.fill(module, {"weight": torch.full((2, 3), 2.0), "bias": torch.ones(2)}, "w")
    assert torch.equal(module(torch.ones(1, 3)), torch.full((1, 2), 7.0))


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "a" / "w"
    disk.write_atomic(file, b"old")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(Mistake, match="cannot be written: No space left") as told:
        disk.write_atomic(file, b"new")
    assert told.value.where == file
    assert file.read_bytes() == b"old" and os.listdir(file.parent) == ["w"]


@pytest.mark.parametrize(
    "change", [{"config": []}, {"size": [8]}, {"size": ["a", "b"]}, {"frames": "1"}, {"latent": 3}, {"stage": None}]
)
def test_a_header_of_other_types_is_a_mistake(tmp_path: Path, change: dict[str, object]) -> None:
    header = {**asdict(Header(stage="image", config={})), **change}
    data = safetensors.torch.save({}, metadata={"drivesim": json.dumps(header)})
    (tmp_path / "a.safetensors").write_bytes(data)
    with pytest.raises(Mistake, match="its drivesim header cannot be read"):
        weights.header(tmp_path / "a.safetensors")
