"""The frozen extractor: its file, its independence of the batch, and that it tells good video from bad."""

import pytest
import torch

from drivesim import weights
from drivesim.errors import Mistake
from drivesim.metrics import builtin
from drivesim.metrics.features import Extractor, prepared_clips


@pytest.fixture(scope="module")
def extractor() -> builtin.Builtin:
    return builtin.Builtin()


def clips(n: int, t: int = 16, h: int = 64, w: int = 128) -> torch.Tensor:
    return torch.randint(0, 255, (n, t, h, w, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def test_the_file_is_small_and_says_where_it_came_from():
    assert builtin.FILE.stat().st_size <= 2_000_000
    header = weights.header(builtin.FILE, "extractor")
    assert {"steps", "seed", "data", "date", "command"} <= header.train.keys()


def test_a_flipped_byte_is_noticed(tmp_path):
    data = bytearray(builtin.FILE.read_bytes())
    data[-7] ^= 1
    (tmp_path / "bent.safetensors").write_bytes(data)
    with pytest.raises(Mistake, match="not builtin-v1"):
        builtin.load(tmp_path / "bent.safetensors")
    with pytest.raises(Mistake, match="not builtin-v1"):
        builtin.load(tmp_path / "none.safetensors")


def test_a_clip_alone_equals_the_clip_in_a_batch(extractor):
    assert isinstance(extractor, Extractor)
    video = prepared_clips(extractor, clips(8))
    together = extractor(video)
    alone = torch.cat([extractor(clip[None]) for clip in video])
    assert together.shape == (8, extractor.dim) and together.dtype == torch.float32
    torch.testing.assert_close(alone, together, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", [builtin.Builtin, builtin.BuiltinFrames])
def test_at_a_fixed_batch_a_vector_is_the_same_in_any_place_beside_any_clips(kind):
    network, video = kind(), prepared_clips(builtin.Builtin(), clips(6))
    video = video[:, :1] if kind is builtin.BuiltinFrames else video
    one, threads = network(video[:4]), torch.get_num_threads()
    assert torch.equal(network(video[[3, 1, 0, 2]])[[2, 1, 3, 0]], one)
    assert torch.equal(network(torch.cat([video[:1], video[3:]]))[0], one[0])
    torch.set_num_threads(3 - min(threads, 2))
    try:
        assert torch.equal(network(video[:4]), one)
    finally:
        torch.set_num_threads(threads)


def test_other_lengths_and_sizes_are_taken(extractor):
    assert extractor(prepared_clips(extractor, clips(1, t=9, h=50, w=70))).isfinite().all()
    with pytest.raises(ValueError, match="at least 8"):
        extractor(prepared_clips(extractor, clips(1, t=7)))
    with pytest.raises(ValueError, match="are B T 64 128 3"):
        extractor(clips(1, h=50))


def test_the_order_of_frames_matters(extractor):
    video = prepared_clips(extractor, clips(1))
    assert not torch.allclose(extractor(video), extractor(video.flip(1)), atol=1e-3)


def test_perceptual_grows_with_the_difference_and_has_a_gradient():
    x = torch.rand(2, 3, 64, 128, generator=torch.Generator().manual_seed(1)) * 2 - 1
    assert float(builtin.perceptual(x, x)) == 0
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(2))
    near, far = (x + s * noise for s in (0.05, 0.3))
    assert 0 < float(builtin.perceptual(x, near)) < float(builtin.perceptual(x, far))
    builtin._shared.cache_clear()
    with torch.inference_mode():
        builtin.perceptual(x, near)  # an evaluation was here before the training
    far.requires_grad_(True)
    builtin.perceptual(x, far).backward()
    assert far.grad is not None and far.grad.isfinite().all() and far.grad.abs().sum() > 0
    assert not any(p.requires_grad for p in builtin.load().parameters())
