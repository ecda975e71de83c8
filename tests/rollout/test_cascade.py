"""The whole cascade with mock models: counts, time stamps, what stays unchanged, resuming, what the weights allow."""

import hashlib
import json
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from drivesim.data import video
from drivesim.errors import Mistake
from drivesim.rollout import stages
from drivesim.rollout.course import course
from drivesim.rollout.engine import Rollout, prepare, roll
from drivesim.rollout.interpolator import Interpolator
from drivesim.rollout.sample import NoiseSource, Told
from drivesim.rollout.scenario import Opening, Scenario
from drivesim.rollout.settings import (
    DecodeConfig,
    InterpolationConfig,
    RolloutConfig,
    SamplerConfig,
    UpsampleConfig,
)
from drivesim.rollout.stack import Stack
from drivesim.rollout.upscaler import Upscaler
from drivesim.scene import Labels, to_pixels

from .mock import LARGE, LATENT, SIZE, Mock, brightening, cascade, stack

TWO = SamplerConfig(steps=2)
FAST = RolloutConfig(
    sampler=TWO,
    start=TWO,
    interpolation=InterpolationConfig(sampler=TWO, context_noise=0.1, batch=3),
    decode=DecodeConfig(frames=10, overlap=3),
    upsample=UpsampleConfig(sampler=SamplerConfig(steps=1), overlap=2),
)
SHORT = Scenario(seconds=6)  # 13 key-frames, 3 windows


def planned(models: Stack | None = None, scenario: Scenario = SHORT, settings: RolloutConfig = FAST) -> Rollout:
    return prepare(models or cascade(), scenario, 1, settings)


def digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return roll(planned(), tmp_path_factory.mktemp("whole") / "run")


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Larger than what the models make."""
    return brightening(tmp_path_factory.mktemp("clip") / "drive.mp4", LARGE, 30)


def times(file: Path) -> list[Fraction]:
    with av.open(str(file)) as opened:
        return [frame.pts * frame.time_base for frame in opened.decode(video=0)]  # type: ignore[operator]


def test_k_keyframes_become_exactly_sixteen_times_as_many(whole: Path) -> None:
    record = json.loads((whole / "run.json").read_text())
    assert record["frames"] == {"key": 13, "interpolated": 180} and record["size"] == list(LARGE)
    assert record["stages"] == [
        *("key-frames at 1.875 fps", "interpolation to 7.5", "interpolation to 30"),
        *("decoder with temporal layers", "upsampler to 64x128"),
    ]
    assert times(whole / "video.mp4") == [Fraction(n, 30) for n in range(16 * 12 + 1)]
    shown = video.probe(whole / "video.mp4")
    assert (shown.fps, shown.frames, shown.height, shown.width) == (30, 193, *LARGE)
    lines = [json.loads(line) for line in (whole / "journal.jsonl").read_text().splitlines()]
    parts = [line["frames"] for line in lines if line["stage"] == "segment"]
    assert [first for first, _ in parts] == [0, *(last for _, last in parts[:-1])] and parts[-1][1] == 193
    for line, (first, last) in zip((x for x in lines if x["stage"] == "segment"), parts, strict=True):
        assert len(times(whole / line["file"])) == last - first, "each segment plays alone"


def test_labels_tell_what_every_frame_is(whole: Path) -> None:
    rows = pq.read_table(whole / "labels.parquet").to_pylist()
    assert [Fraction(row["time_num"], row["time_den"]) for row in rows] == times(whole / "video.mp4")
    assert [row["kind"] for row in rows] == ["key" if n % 16 == 0 else "interpolated" for n in range(193)]


def test_given_frames_come_out_unchanged_in_latent_space() -> None:
    rollout = planned()
    keys = 10 * torch.randn(5, *LATENT)
    chunks: object = [stages.Chunk(rollout.plan.window(0), keys, {"latents": keys[-2:]}, True)]
    for number in (1, 2):
        between = Interpolator(rollout.stack, FAST.interpolation, rollout.noise, Told(), number)
        chunks = stages.interpolate(chunks, between, batch=3)  # type: ignore[arg-type]
    made = torch.cat([c.frames for c in chunks])  # type: ignore[attr-defined]
    assert len(made) == 16 * 4 + 1 and torch.equal(made[::16], keys)


def test_what_the_interpolation_model_is_told() -> None:
    mock = Mock(remember=True)
    models = cascade(between=mock)
    ends = torch.randn(2, 2, *LATENT)
    for number, rate in ((1, 7.5), (2, 30.0)):
        Interpolator(models, FAST.interpolation, NoiseSource(0, "s"), Told(Labels(night=True)), number)(3, ends)
        x, told = mock.seen[-1]
        assert x.shape == (3, 5, *LATENT), "the batch is filled up"
        assert told.fps is not None and told.fps.tolist() == [rate] * 3
        assert told.given is not None and told.given.tolist() == [2, 2, 2]
        assert told.context_mask is not None and told.context_mask.tolist() == [[1, 0, 0, 0, 1]] * 3
        assert told.context_level is not None and told.context_level[0].tolist() == pytest.approx([0.1, 0, 0, 0, 0.1])
        assert told.context is not None and not told.context[:, 1:-1].any()
        whitened = models.whiten(ends)
        assert float((told.context[:2, [0, -1]] - whitened).std()) == pytest.approx(0.1, abs=0.03)
        assert told.tokens is not None and len(told.tokens) == 3


def test_frames_that_two_gaps_share_have_one_noise() -> None:
    """So a gap's frames depend on its place alone, not on the batch that it is in."""
    noise, settings = NoiseSource(0, "s"), replace(FAST.interpolation, context_noise=0.0)
    ends = torch.randn(4, 2, *LATENT)
    many = Interpolator(cascade(), replace(settings, batch=4), noise, Told(), 2)(5, ends)
    each = [
        Interpolator(cascade(), replace(settings, batch=1), noise, Told(), 2)(5 + n, ends[n : n + 1]) for n in range(4)
    ]
    torch.testing.assert_close(many, torch.cat(each))


@pytest.mark.parametrize("stage", ["keyframes", "between", "above"])
@pytest.mark.parametrize("call", [3, 25])
def test_resumed_is_uninterrupted(whole: Path, tmp_path: Path, stage: str, call: int) -> None:
    call = min(call, 5) if stage == "keyframes" else call
    with pytest.raises(RuntimeError, match="died"):
        roll(planned(cascade(**{stage: Mock(fail_at_call=call)})), tmp_path / "run")  # type: ignore[arg-type]
    roll(planned(), tmp_path / "run", resume=True)
    assert digest(tmp_path / "run" / "video.mp4") == digest(whole / "video.mp4")


def test_a_longer_rollout_begins_with_the_shorter(whole: Path, tmp_path: Path) -> None:
    longer = roll(planned(scenario=replace(SHORT, seconds=9)), tmp_path / "longer")
    for n in range(2):
        assert digest(longer / "segments" / f"{n:06d}.mp4") == digest(whole / "segments" / f"{n:06d}.mp4")


@pytest.mark.parametrize(
    ("fps", "kinds", "words"),
    [
        (1.875, {"key": 13, "interpolated": 0, "filled": 0}, ["key-frames at 1.875 fps", "image decoder"]),
        (3.75, {"key": 13, "interpolated": 0, "filled": 12}, ["blended to 3.75"]),
        (7.5, {"key": 13, "interpolated": 36, "filled": 0}, ["interpolation to 7.5", "image decoder"]),
        (15, {"key": 13, "interpolated": 36, "filled": 48}, ["interpolation to 7.5", "image decoder", "blended to 15"]),
        (30, {"key": 13, "interpolated": 180, "filled": 0}, ["decoder with temporal layers"]),
    ],
)
def test_every_rate_is_made_by_models_as_far_as_they_reach(
    tmp_path: Path, fps: float, kinds: dict[str, int], words: list[str]
) -> None:
    rollout = planned(scenario=replace(SHORT, fps=fps, size=SIZE))
    assert rollout.plan.kinds() == kinds and set(words) <= set(rollout.course.words("blended"))
    run = roll(rollout, tmp_path / "run")
    assert times(run / "video.mp4") == [n / Fraction(str(fps)) for n in range(sum(kinds.values()))]
    shown = [row["kind"] for row in pq.read_table(run / "labels.parquet").to_pylist()]
    assert {name: shown.count(name) for name in ("key", "interpolated", "blended")} == {
        **{k: v for k, v in kinds.items() if k != "filled"}, "blended": kinds["filled"],
    }  # fmt: skip


def test_stages_follow_the_weights() -> None:
    def chosen(models: Stack, **asked: object) -> tuple[float, tuple[int, int], int]:
        made = course(models, replace(SHORT, **asked), FAST)  # type: ignore[arg-type]
        return float(made.plan.fps), made.size, made.plan.passes

    assert chosen(stack()) == (7.5, SIZE, 0)
    assert chosen(cascade()) == (30, LARGE, 2)
    assert chosen(cascade(), size=SIZE) == (30, SIZE, 2)
    only = cascade().interpolation
    assert only is not None
    assert chosen(cascade(interpolation=replace(only, rates=(7.5,)))) == (7.5, LARGE, 1)
    assert chosen(cascade(interpolation=None), fps=30) == (30, LARGE, 0)
    with pytest.raises(Mistake, match="32x64 or 64x128 frames, not 16x32"):
        chosen(cascade(), size=(16, 32))
    with pytest.raises(Mistake, match="learned from at most 250"):
        course(cascade(), SHORT, replace(FAST, upsample=UpsampleConfig(noise=300)))
    with pytest.raises(Mistake, match="larger than frames"):
        course(cascade(), SHORT, replace(FAST, upsample=UpsampleConfig(tile=(512, 512))))
    upsampler = cascade().upsampler
    assert upsampler is not None
    with pytest.raises(Mistake, match=r"(?s)multiple of 16.*upsample\.tile=\[64,96\]"):
        course(
            cascade(upsampler=replace(upsampler, unit=16)), SHORT,
            replace(FAST, upsample=UpsampleConfig(tile=(60, 100), tile_overlap=16)),
        )  # fmt: skip


@pytest.mark.parametrize("frames", [1, 2])
@pytest.mark.parametrize("keep", [False, True])
def test_a_real_opening(clip: Path, tmp_path: Path, frames: int, keep: bool) -> None:
    opening = Opening(str(clip), at=0.2, frames=frames, keep=keep)
    run = roll(planned(scenario=replace(SHORT, opening=opening)), tmp_path / "run")
    front = 16 * (frames - 1) if keep else 0
    first = 6 + 16 * (frames - 1)  # the frame of the clip that is the last given one
    real = video.read(clip, fps=Fraction(30), frames=60, size=LARGE).frames
    shown = video.read(run / "video.mp4", fps=Fraction(30), frames=front + 193, size=LARGE).frames
    assert np.abs(shown[: front + 1].astype(int) - real[first - front : first + 1]).mean() < 2, "the real frames"
    rows = pq.read_table(run / "labels.parquet").to_pylist()
    assert [row["kind"] for row in rows[: front + 2]] == ["real"] * (front + 1) + ["interpolated"]
    assert len(rows) == front + 193 == len(times(run / "video.mp4"))
    record = json.loads((run / "run.json").read_text())
    told = record["handover"]
    assert (
        told["jump"] > 0
        and told["inside"] > 0
        and told["ratio"] == pytest.approx(told["jump"] / told["inside"], abs=2e-3)
    )


def test_the_opening_is_kept_without_an_upsampler(clip: Path, tmp_path: Path) -> None:
    opening = Opening(str(clip), at=0.2, frames=1, keep=True)
    kept = roll(planned(scenario=replace(SHORT, opening=opening, size=SIZE)), tmp_path / "kept")
    plain = roll(planned(scenario=replace(SHORT, opening=replace(opening, keep=False), size=SIZE)), tmp_path / "plain")
    real = video.read(clip, fps=Fraction(30), frames=7, size=SIZE).frames[6].astype(int)
    first, others = (video.read(run / "video.mp4", frames=4).frames.astype(int) for run in (kept, plain))
    assert np.abs(first[0] - real).mean() < 2
    assert np.abs(first[1:] - others[1:]).mean() < 2, "what is kept changes nothing that is made"
    assert [row["kind"] for row in pq.read_table(plain / "labels.parquet").to_pylist()[:2]] == ["key", "interpolated"]


def test_the_hand_over_is_kept_by_a_resumed_run(clip: Path, tmp_path: Path) -> None:
    scenario = replace(SHORT, opening=Opening(str(clip), at=0.2))
    with pytest.raises(RuntimeError, match="died"):
        roll(planned(cascade(Mock(fail_at_call=4)), scenario), tmp_path / "run")
    told = json.loads((tmp_path / "run" / "run.json").read_text())["handover"]
    roll(planned(scenario=scenario), tmp_path / "run", resume=True)
    assert json.loads((tmp_path / "run" / "run.json").read_text())["handover"] == told


def test_upsampling_in_tiles_is_nearly_that_of_whole_frames() -> None:
    models, noise = cascade(), NoiseSource(0, "s")
    low = torch.rand(8, 3, *SIZE) * 2 - 1
    nothing = torch.zeros(0, 3, *LARGE)
    whole = Upscaler(models, FAST.upsample, noise, Told(), 16)(0, low, nothing)
    tiles = replace(FAST.upsample, tile=(32, 48), tile_overlap=8)
    torch.testing.assert_close(Upscaler(models, tiles, noise, Told(), 16)(0, low, nothing), whole)
    known = Upscaler(models, FAST.upsample, noise, Told(), 16)(0, low, whole[:2] * 0.5)
    assert torch.equal(known[:2], whole[:2] * 0.5)


def test_the_window_seam_of_known_frames_shares_noise() -> None:
    """A window that begins with the other's last frames makes what the other would have made of them."""
    models, noise = cascade(), NoiseSource(0, "s")
    upscale = Upscaler(models, FAST.upsample, noise, Told(), 16)
    low = torch.rand(14, 3, *SIZE) * 2 - 1
    first = upscale(0, low[:8], low.new_zeros(0, 3, 1, 1))
    second = upscale(6, low[6:], low.new_zeros(0, 3, 1, 1))
    torch.testing.assert_close(first[6:], second[:2])
    assert to_pixels(first).shape == (8, *LARGE, 3)


def test_images_alone_are_upsampled_one_by_one(tmp_path: Path) -> None:
    upsampler = cascade().upsampler
    assert upsampler is not None
    rollout = planned(cascade(upsampler=replace(upsampler, frames=1)), replace(SHORT, seconds=2))
    assert rollout.course.upsampler is not None and rollout.course.upsampler.overlap == 0
    assert len(times(roll(rollout, tmp_path / "run") / "video.mp4")) == rollout.plan.total
