"""FID's Inception against numbers of torch-fidelity and torchmetrics on the same seeded weights and frames.

The public file is not to be had in a test; what is random here are its values, and its layout is the public one.
"""

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch

from drivesim import weights
from drivesim.errors import Mistake
from drivesim.metrics import inception
from drivesim.metrics.features import Extractor
from drivesim.metrics.published import Published

PICKED = [216, 341, 875, 1275, 1604, 1872]  # the largest of each branch of the last block
# for both frames(), of torch-fidelity 0.4.0's FeatureExtractorInceptionV3, and of torchmetrics 1.9.0's
# NoTrainInceptionV3, which resizes with antialiasing
PEERS = {
    "tf1": [
        [8.700686, 8.191075, 9.049779, 5.987562, 5.940658, 9.705963],
        [10.271892, 9.56273, 10.865572, 6.50546, 6.751413, 11.26677],
    ],
    "antialias": [
        [8.678922, 8.180588, 9.010094, 5.939394, 5.929227, 9.620486],
        [10.214802, 9.588356, 10.765017, 6.422085, 6.692763, 11.236239],
    ],
}


def frames() -> np.ndarray:
    """Two frames, uint8 of 90x130: coarse blocks, and noise."""
    rng = np.random.default_rng(1)
    coarse = rng.integers(0, 256, (9, 13, 3), dtype=np.uint8).repeat(10, 0).repeat(10, 1)
    return np.stack([coarse, rng.integers(0, 256, coarse.shape, dtype=np.uint8)])


@pytest.fixture(scope="module")
def tensors() -> dict[str, torch.Tensor]:
    """Random values in the layout of the public file, with what it holds beside the features' network."""
    rng = np.random.default_rng(0)
    found = {}
    for name, shape in sorted(inception.shapes(inception.Network()).items()):
        value = rng.random(shape, dtype=np.float32) * 2 - 1
        if name.endswith("conv.weight"):
            value *= np.float32((6 / np.prod(shape[1:])) ** 0.5)  # keeps the variance from layer to layer
        else:
            value = value * np.float32(0.3) + np.float32(name.endswith((".weight", "_var")))
        found[name] = torch.from_numpy(value)
    extra = {"Conv2d_1a_3x3.bn.num_batches_tracked": torch.tensor(0)}
    return {**found, "fc.weight": torch.zeros(1008, 2048), "fc.bias": torch.zeros(1008), **extra}


@pytest.fixture(scope="module")
def file(tensors: dict[str, torch.Tensor], tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("inception") / "weights.pth"
    torch.save(tensors, file)
    return file


@pytest.fixture(scope="module")
def extractors(file: Path) -> dict[str, inception.Inception]:
    """One for each way of resizing, of a file that is known here."""
    known = {file.name: Published(file.stat().st_size, hashlib.sha256(file.read_bytes()).hexdigest(), "a test")}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inception, "KNOWN", known)
        return {resize: inception.Inception(file, resize=resize) for resize in PEERS}


def features(extractor: inception.Inception) -> torch.Tensor:
    return extractor(torch.from_numpy(extractor.prepare(frames()))[:, None])


@pytest.mark.parametrize("resize", PEERS)
def test_the_features_are_the_peers(extractors, resize):
    extractor = extractors[resize]
    assert isinstance(extractor, Extractor) and extractor.name == "inception"
    found = features(extractor)
    assert found.shape == (2, extractor.dim) and found.dtype == torch.float32
    torch.testing.assert_close(found[:, PICKED], torch.tensor(PEERS[resize]), rtol=1e-5, atol=1e-5)


def test_a_ramp_is_read_where_tensorflow_reads_it():
    ramp = np.broadcast_to(np.arange(100, dtype=np.uint8)[:, None], (1, 50, 100, 3))
    wanted = np.minimum(np.arange(299) * 100 / 299, 99)  # no half pixel; past the last column there is the last
    np.testing.assert_allclose(inception.tf1(ramp)[0, 7, :, 1], wanted, atol=1e-4)
    turned = inception.tf1(ramp.transpose(0, 2, 1, 3))
    np.testing.assert_allclose(turned[0, :, 7, 1], wanted, atol=1e-4)


def test_a_frame_does_not_know_its_place_in_the_batch(extractors):
    extractor, order = extractors["tf1"], [2, 0, 3, 1]
    batch = torch.from_numpy(extractor.prepare(np.concatenate([frames(), 255 - frames()])))[:, None]
    assert torch.equal(extractor(batch)[order], extractor(batch[order]))


def test_clips_of_several_frames_are_refused(extractors):
    with pytest.raises(ValueError, match="single frames"):
        extractors["tf1"](torch.zeros(1, 2, 299, 299, 3))


def test_a_file_that_is_not_known_is_refused_and_the_known_one_named(file, monkeypatch):
    with pytest.raises(Mistake, match=r"by its [\d,]+ bytes\n.*6726825d-?.*95,628,359 bytes, SHA-256 6726825d0af5f729"):
        inception.Inception(file)
    same_size = {"public.pth": Published(file.stat().st_size, "0" * 64, "its owner's page")}
    monkeypatch.setattr(inception, "KNOWN", same_size)
    with pytest.raises(Mistake, match=r"by its SHA-256 [0-9a-f]{64}\n.*public.pth, .*published at its owner's page"):
        inception.Inception(file)
    with pytest.raises(Mistake, match="no such weight file"):
        inception.Inception(file.with_name("absent.pth"))


def test_tensors_that_do_not_fit_are_named(tensors):
    network, name = inception.Network(), "Mixed_6b.branch7x7_2.conv.weight"
    missing = {key: value for key, value in tensors.items() if key != name}
    for wrong, kind in (
        (missing, "missing"),
        ({**tensors, "AuxLogits.conv0.conv.weight": torch.zeros(1)}, "unknown"),
        ({**tensors, name: torch.zeros(1, 2)}, "misshapen"),
    ):
        with pytest.raises(Mistake, match=f"tensors {kind}: (Mixed_6b.branch7x7_2|AuxLogits)"):
            inception.fill(network, wrong, "file")


def test_a_copy_as_safetensors_gives_the_same_features_under_a_name_of_its_own(extractors, tensors, tmp_path):
    sha = weights.save(tmp_path / "copy.safetensors", tensors, weights.Header("extractor", {}))
    copy = inception.Inception(tmp_path / "copy.safetensors")
    assert (copy.name, copy.sha) == (f"inception-{sha[:8]}", sha)
    assert torch.equal(features(copy), features(extractors["tf1"]))
