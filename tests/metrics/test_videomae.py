"""VideoMAE against numbers of cd-fvd's own network: a small one of the same architecture, its values seeded."""

import hashlib
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from drivesim.errors import Mistake
from drivesim.metrics import videomae
from drivesim.metrics.features import Extractor
from drivesim.metrics.published import Published

SMALL = videomae.VideoMAEConfig(patch=56, frames=4, width=24, depth=2, heads=3, hidden=40, classes=5)
# features 0, 5, 10, 15, 20 of clips(): forward_features(preprocess_videomae(...)) of cd-fvd 0.1.1
PEER = [[2.664624, -2.281172, -0.356906, -0.238115, -2.893005], [3.096249, -0.943702, -0.230246, -0.255221, -2.133154]]


def clips() -> np.ndarray:
    """Two clips, uint8 ``2 T 90 130 3``."""
    rng = np.random.default_rng(1)
    coarse = rng.integers(0, 256, (SMALL.frames, 9, 13, 3), dtype=np.uint8).repeat(10, 1).repeat(10, 2)
    return np.stack([coarse, coarse // 4])


def public(config: videomae.VideoMAEConfig) -> dict[str, torch.Tensor]:
    """Random values in the layout of OpenGVLab's finetuned files, in half precision as theirs."""
    d, hidden = config.width, config.hidden
    shapes: dict[str, tuple[int, ...]] = {"patch_embed.proj.weight": (d, 3, config.tubelet, config.patch, config.patch)}
    shapes |= {"patch_embed.proj.bias": (d,), "fc_norm.weight": (d,), "fc_norm.bias": (d,)}
    shapes |= {"head.weight": (config.classes, d), "head.bias": (config.classes,)}
    for block in (f"blocks.{n}" for n in range(config.depth)):
        shapes |= {f"{block}.{norm}.{value}": (d,) for norm in ("norm1", "norm2") for value in ("weight", "bias")}
        shapes |= {f"{block}.attn.qkv.weight": (3 * d, d), f"{block}.attn.q_bias": (d,), f"{block}.attn.v_bias": (d,)}
        shapes |= {f"{block}.attn.proj.weight": (d, d), f"{block}.attn.proj.bias": (d,)}
        shapes |= {f"{block}.mlp.fc1.weight": (hidden, d), f"{block}.mlp.fc1.bias": (hidden,)}
        shapes |= {f"{block}.mlp.fc2.weight": (d, hidden), f"{block}.mlp.fc2.bias": (d,)}
    rng, found = np.random.default_rng(0), {}
    for name, shape in sorted(shapes.items()):
        value = rng.random(shape, dtype=np.float32) * 2 - 1
        if len(shape) > 1:
            value *= np.float32((12 / np.prod(shape[1:])) ** 0.5)
        found[name] = torch.from_numpy(value + np.float32("norm" in name and name.endswith("weight"))).half()
    return found


@pytest.fixture
def save(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Writes tensors as the public file has them, and makes that file known."""

    def write(tensors: dict[str, torch.Tensor]) -> Path:
        file = tmp_path / "small.pth"
        torch.save({"module": tensors}, file)
        known = Published(file.stat().st_size, hashlib.sha256(file.read_bytes()).hexdigest(), "a test")
        monkeypatch.setattr(videomae, "KNOWN", {file.name: known})
        return file

    return write


def prepared(extractor: videomae.VideoMAE, video: np.ndarray) -> torch.Tensor:
    return torch.stack([torch.from_numpy(extractor.prepare(clip)) for clip in video])


def test_the_features_are_the_peers(save):
    extractor = videomae.VideoMAE(save(public(SMALL)), config=SMALL)
    assert isinstance(extractor, Extractor)
    found = extractor(prepared(extractor, clips()))
    assert found.shape == (2, extractor.dim) and found.dtype == torch.float32
    torch.testing.assert_close(found[:, ::5], torch.tensor(PEER), rtol=1e-5, atol=1e-5)


def test_a_clip_does_not_know_its_place_in_the_batch(save):
    extractor, order = videomae.VideoMAE(save(public(SMALL)), config=SMALL), [2, 0, 3, 1]
    batch = prepared(extractor, np.concatenate([clips(), 255 - clips()]))
    assert torch.equal(extractor(batch)[order], extractor(batch[order]))
    assert torch.equal(extractor(batch)[2:3], extractor(batch[2:3]))


def test_another_number_of_frames_is_refused(save):
    extractor = videomae.VideoMAE(save(public(SMALL)), config=SMALL)
    for frames in (3, 5):
        with pytest.raises(ValueError, match=f"{frames} frames|not at {frames}"):
            extractor(torch.zeros(1, frames, 224, 224, 3))


def test_a_file_that_is_not_known_is_refused_and_the_known_one_named(save, monkeypatch):
    known = videomae.KNOWN
    file = save(public(SMALL))
    same_size = {"public.pth": Published(file.stat().st_size, "0" * 64, "its owner's page")}
    monkeypatch.setattr(videomae, "KNOWN", same_size)
    with pytest.raises(Mistake, match=r"by its SHA-256 [0-9a-f]{64}\n.*public.pth, .*published at its owner's page"):
        videomae.VideoMAE(file, config=SMALL)
    monkeypatch.setattr(videomae, "KNOWN", known)
    with pytest.raises(Mistake, match=r"vit_g_hybrid_pt_1200e_ssv2_ft.pth, 2,023,804,201 bytes, SHA-256 5a210a92"):
        videomae.VideoMAE(file, config=SMALL)


def test_tensors_that_do_not_fit_are_named_as_the_file_names_them(save):
    tensors, name = public(SMALL), "blocks.1.attn.qkv.weight"
    missing = {key: value for key, value in tensors.items() if key != name}
    for wrong, message in (
        (missing, f"missing: {name}"),
        ({**tensors, "pos_embed": torch.zeros(1)}, "unknown: pos_embed"),
        ({**tensors, name: torch.zeros(24, 24)}, f"misshapen: {name}"),
    ):
        with pytest.raises(Mistake, match=f"tensors {message}"):
            videomae.VideoMAE(save(wrong), config=SMALL)


def test_the_default_is_the_network_of_the_public_file():
    network = videomae.build(replace(videomae.VideoMAEConfig(), frames=2))  # fewer positions, which are not in the file
    size = videomae.KNOWN["vit_g_hybrid_pt_1200e_ssv2_ft.pth"].bytes
    tensors = 2 * sum(np.prod(shape, dtype=int) for shape in videomae.shapes(network).values())
    assert 0 < size - tensors < 100_000  # in half precision; the rest is names
    assert {module.eps for module in network.modules() if isinstance(module, torch.nn.LayerNorm)} == {1e-6}


def test_without_transformers_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(Mistake, match=r"pip install 'drivesim\[videomae\]'"):
        videomae.build(SMALL)
