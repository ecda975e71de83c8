"""I3D against the reference's own graph, from every kind of public file; resizes against theirs."""

import zipfile

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from drivesim import disk
from drivesim.errors import Mistake
from drivesim.metrics import i3d, resize
from drivesim.metrics.features import Extractor
from tests.metrics import golden


@pytest.fixture(scope="module")
def values(shared):
    return golden.maker(shared).weights()


@pytest.fixture(scope="module")
def file(values, tmp_path_factory):
    path = tmp_path_factory.mktemp("i3d") / "hassony2.pt"
    torch.save(golden.tensors(values, "hassony2"), path)
    return path


@pytest.fixture(scope="module")
def network(file):
    return i3d.I3D(file)


@pytest.mark.parametrize("frames", [9, 16, 17, 30])
def test_features_are_those_of_the_reference_graph(shared, network, frames):
    wanted = torch.from_numpy(np.load(shared / "reference" / "i3d-golden" / "features.npz")[f"T{frames}"])
    clip = torch.from_numpy(golden.maker(shared).clip(frames, len(wanted)))
    found = network((clip + 1) * 127.5)
    assert float((found - wanted).norm() / wanted.norm()) < 2e-6


def test_the_golden_clip_itself_is_within_two_millionths(shared, network):
    """As the graph was fed: in [-1, 1], without the way through 0..255."""
    wanted = torch.from_numpy(np.load(shared / "reference" / "i3d-golden" / "features.npz")["T17"])
    with torch.inference_mode():
        found = network.network(torch.from_numpy(golden.maker(shared).clip(17, len(wanted))).permute(0, 4, 1, 2, 3))
    assert float((found - wanted).abs().max() / wanted.abs().max()) < 2e-6


def test_every_kind_of_file_holds_the_same(values, file, tmp_path):
    torch.save(golden.tensors(values, "piergiaj"), tmp_path / "piergiaj.pt")
    torch.save({"state_dict": golden.tensors(values, "hassony2")}, tmp_path / "nested.pt")
    golden.save_archive(golden.tensors(values, "hassony2"), tmp_path / "archive.pt")
    golden.save_archive(golden.tensors(values, "piergiaj"), tmp_path / "other.pt")
    wanted, sha = i3d.read(file)
    assert sha == disk.sha256(file) and {name.rpartition(".")[2] for name in wanted} >= {"weight", "mean", "beta"}
    for name in ("piergiaj.pt", "nested.pt", "archive.pt", "other.pt"):
        found, _ = i3d.read(tmp_path / name)
        assert all(torch.equal(found[key], wanted[key]) for key in i3d._shapes())


def test_an_archive_is_never_run(values, tmp_path):
    """Code that would fail if it were compiled, and classes that nobody has."""
    golden.save_archive(golden.tensors(values, "piergiaj"), tmp_path / "good.pt")
    with zipfile.ZipFile(tmp_path / "good.pt") as good, zipfile.ZipFile(tmp_path / "bad.pt", "w") as bad:
        for entry in good.infolist():
            is_code = "/code/" in entry.filename
            bad.writestr(entry.filename, b"import os; os.abort()" if is_code else good.read(entry))
    assert len(i3d.read(tmp_path / "bad.pt")[0]) >= len(i3d._shapes())


def test_a_clip_alone_equals_the_clip_in_a_batch_whatever_the_place_and_the_threads(network):
    clips = torch.rand(3, 9, 224, 224, 3, generator=torch.Generator().manual_seed(0)) * 255
    before, threads = network(clips), torch.get_num_threads()
    assert torch.equal(network(clips[[2, 0, 1]])[[1, 2, 0]], before)
    assert torch.equal(network(torch.cat([clips[1:2], clips[:1] * 0, clips[2:]]))[:1], before[1:2])
    torch.set_num_threads(3 - min(threads, 2))
    try:
        assert torch.equal(network(clips), before)
    finally:
        torch.set_num_threads(threads)


def test_bf16_is_within_half_a_percent(file, network):
    clips = torch.rand(1, 9, 224, 224, 3, generator=torch.Generator().manual_seed(0)) * 255
    found, wanted = i3d.I3D(file, precision="bf16")(clips), network(clips)
    assert 1e-4 < float((found - wanted).norm() / wanted.norm()) < 5e-3


def test_a_smaller_epsilon_gives_another_network(file, network):
    clips = torch.rand(1, 9, 224, 224, 3, generator=torch.Generator().manual_seed(0)) * 255
    other = i3d.I3D(file, epsilon=1e-5)(clips)
    assert float((other - network(clips)).norm() / other.norm()) > 1e-4


def test_pools_are_those_of_torch():
    for dtype in (torch.float32, torch.bfloat16):
        x = (torch.rand(1, 3, 7, 9, 12) - 0.5).relu().to(dtype)
        for kernel, stride in (
            ((1, 3, 3), (1, 2, 2)),
            ((3, 3, 3), (2, 2, 2)),
            ((2, 2, 2), (2, 2, 2)),
            ((3, 3, 3), (1, 1, 1)),
        ):
            pads = [i3d.same(n, k, s) for n, k, s in zip(x.shape[2:], kernel, stride, strict=True)]
            padded = F.pad(x, [side for pad in reversed(pads) for side in pad])
            assert torch.equal(i3d.max_pool(x, kernel, stride), F.max_pool3d(padded, kernel, stride))


def test_what_it_is_called_and_what_it_refuses(values, file, network, tmp_path, monkeypatch):
    assert isinstance(network, Extractor) and network.name == f"i3d-{network.sha[:8]}"
    with pytest.raises(ValueError, match="at least 9"):
        network(torch.zeros(1, 8, 224, 224, 3))
    with pytest.raises(Mistake, match="no such weight file") as refusal:
        i3d.I3D(tmp_path / "none.pt")
    assert "i3d_torchscript.pt" in str(refusal.value) and "bec6519f" in str(refusal.value)
    state = golden.tensors(values, "piergiaj")
    del state["Mixed_4f.b1b.conv3d.weight"]
    torch.save(state, tmp_path / "less.pt")
    with pytest.raises(Mistake, match="has no 4f.1b.weight"):
        i3d.I3D(tmp_path / "less.pt")
    (tmp_path / "cut.pt").write_bytes(file.read_bytes()[:100_000])
    with pytest.raises(Mistake, match="damaged"):
        i3d.I3D(tmp_path / "cut.pt")
    monkeypatch.setattr(i3d, "SAME", network.sha)
    assert i3d.I3D(file).name == "i3d"
    monkeypatch.setattr(i3d, "OTHER", network.sha)
    with pytest.raises(Mistake, match="other weights than FVD"):
        i3d.I3D(file)


def test_a_pickle_that_runs_something_is_refused(tmp_path):
    class Runs:
        def __reduce__(self):
            return (print, ("run",))

    torch.save({"weight": Runs()}, tmp_path / "runs.pt")
    with pytest.raises(Mistake, match="not run"):
        i3d.I3D(tmp_path / "runs.pt")


# --- resizes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("height", "width"), [(64, 64), (512, 1024), (900, 1600)])
def test_tf1_equals_its_goldens(shared, height, width):
    folder = shared / "reference" / "i3d-golden"
    frame = golden.maker(shared).frame(height, width)
    wanted = np.load(folder / f"resize_{height}x{width}.npy").reshape(1, 224, 224, 3)
    assert np.abs(resize.tf1(frame.astype(np.uint8)) - wanted).max() < 1e-4


@pytest.fixture(scope="module")
def frames():
    return np.random.default_rng(0).integers(0, 256, (2, 90, 160, 3), np.uint8)


def interpolate(frames: np.ndarray, size: tuple[int, int], antialias: bool = False) -> np.ndarray:
    x = torch.from_numpy(frames).permute(0, 3, 1, 2).float()
    return F.interpolate(x, size, mode="bilinear", antialias=antialias).permute(0, 2, 3, 1).numpy()


def test_bilinear_is_torchs(frames):
    assert np.abs(resize.bilinear(frames) - interpolate(frames, (224, 224))).max() < 0.02


def test_short_side_and_crop(frames):
    wide = interpolate(frames, (224, 399))  # 160 * 224 / 90 is 398.2, rounded up
    assert np.abs(resize.short_side_crop(frames) - wide[:, :, 87:311]).max() < 0.02
    tall = frames.transpose(0, 2, 1, 3)
    assert np.abs(resize.short_side_crop(tall) - interpolate(tall, (399, 224))[:, 87:311]).max() < 0.02


def test_cdfvds_chain(frames):
    wide = interpolate(frames / np.float32(255), (256, 456), antialias=True)[:, :, 100:356]  # its loader works in 0..1
    levels = (torch.from_numpy(wide) * 255).byte().numpy()
    difference = np.abs(resize.cdfvd(frames) - interpolate(levels, (224, 224)))
    assert np.mean(difference > 0.02) < 1e-3 and difference.max() <= 1.01  # a level where cutting off falls otherwise


@pytest.mark.parametrize("name", resize.RESIZES)
def test_every_frame_is_resized_on_its_own(frames, name):
    assert np.array_equal(resize.RESIZES[name](frames)[1:], resize.RESIZES[name](frames[1:]))
    assert resize.RESIZES[name](frames).dtype == np.float32 and resize.RESIZES[name](frames).shape == (2, 224, 224, 3)
