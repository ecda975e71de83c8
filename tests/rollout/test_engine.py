"""A rollout as a whole, with a mock model: what is given stays, overlaps share noise, and resumed = uninterrupted."""

import gc
import hashlib
import json
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from drivesim.data import video
from drivesim.errors import Interrupted, Mistake
from drivesim.rollout.engine import Rollout, prepare, roll
from drivesim.rollout.plan import Window, describe
from drivesim.rollout.predictor import Predictor, start_frame
from drivesim.rollout.sample import START, NoiseSource, Told
from drivesim.rollout.scenario import Opening, Scales, Scenario
from drivesim.rollout.settings import GuidanceConfig, RolloutConfig, SamplerConfig
from drivesim.rollout.stack import Stack
from drivesim.rollout.stages import decode, fill, keyframes
from drivesim.scene import KEYFRAME_FPS, Labels, Level, to_model, to_pixels

from .mock import FRAMES, LATENT, SIZE, Mock, brightening, stack

FAST = RolloutConfig(sampler=SamplerConfig(steps=3), start=SamplerConfig(steps=3))
SHORT = Scenario(seconds=12, fps=3.75)  # 24 key-frames, 6 windows


def planned(
    mock: Mock | None = None, scenario: Scenario = SHORT, seed: int = 1, settings: RolloutConfig = FAST
) -> Rollout:
    return prepare(stack(mock), scenario, seed, settings)


def digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return roll(planned(), tmp_path_factory.mktemp("whole") / "run")


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return brightening(tmp_path_factory.mktemp("clip") / "drive.mp4", SIZE, 15)


@pytest.mark.parametrize(
    "sampler", [SamplerConfig(steps=3), SamplerConfig(steps=3, eta=1.0), SamplerConfig("dpmpp_2m", 3)]
)
@pytest.mark.parametrize("given", [1, 2])
def test_given_latents_come_out_unchanged(sampler: SamplerConfig, given: int) -> None:
    context = 10 * torch.randn(given, *LATENT)
    predict = Predictor(stack(), replace(FAST, sampler=sampler), NoiseSource(0, "s"), Told())
    made = predict(Window(0, 1 - given, given, 0, FRAMES - given), context)
    assert made.shape == (FRAMES, *LATENT) and torch.equal(made[:given], context)
    assert not torch.equal(made[given:], torch.zeros_like(made[given:]))


def test_what_the_model_is_told() -> None:
    mock = Mock(remember=True)
    models = stack(mock)
    context, noise = torch.randn(2, *LATENT), NoiseSource(0, "s")
    Predictor(models, FAST, noise, Told(Labels(night=True)))(Window(1, 4, 2, 6, 10), context)
    told = mock.seen[0][1]
    assert told.context is not None and told.context_level is not None and told.context_mask is not None
    assert told.context_mask.tolist() == [[1, 1, 0, 0, 0, 0]] and told.context_level[0].tolist() == pytest.approx(
        [0.1, 0.1, 0, 0, 0, 0]
    )
    added = noise("context", [64, 80], START, LATENT)[0]
    assert torch.equal(told.context[0, :2], models.whiten(context) + 0.1 * added) and not told.context[0, 2:].any()
    assert (
        told.given is not None and told.given.tolist() == [2] and told.fps is not None and told.fps.tolist() == [1.875]
    )
    assert told.tokens is not None and told.tokens.shape == (1, 1, 1)


def test_windows_that_overlap_share_noise() -> None:
    noise = NoiseSource(3, "scenario")
    first, second = (noise("keyframes", frames, 2, LATENT, 0.3) for frames in (range(0, 6), range(4, 10)))
    assert torch.equal(first[:, 4:], second[:, :2]) and not torch.equal(first[:, :2], first[:, 2:4])
    for other in (NoiseSource(4, "scenario"), NoiseSource(3, "other"), NoiseSource(3, "scenario", branch=1)):
        assert not torch.equal(
            other("keyframes", range(6), 2, LATENT), NoiseSource(3, "scenario")("keyframes", range(6), 2, LATENT)
        )


def test_noise_shared_by_all_frames_correlates_as_asked() -> None:
    flat = NoiseSource(0, "s")("keyframes", range(8), 0, (4, 64, 64), 0.25).flatten(2)[0]
    correlation = torch.corrcoef(flat)
    assert torch.allclose(correlation, torch.full((8, 8), 0.25) + 0.75 * torch.eye(8), atol=0.03)


def test_the_sampler_starts_at_the_schedules_scale() -> None:
    mock = Mock(remember=True)
    Predictor(stack(mock), FAST, NoiseSource(0, "s"), Told())(Window(0, 0, 1, 0, 6), torch.zeros(1, *LATENT))
    sigma = mock.schedule.sigmas[-1]
    unit = NoiseSource(0, "s")("keyframes", range(0, 96, 16), START, LATENT)
    torch.testing.assert_close(mock.seen[0][0], unit * float((1 + sigma**2).sqrt()))


def test_the_run_folder(whole: Path) -> None:
    plan = planned().plan
    record = json.loads((whole / "run.json").read_text())
    assert record["status"] == "done" and record["frames"] == {"key": 24, "blended": 23} and record["resumed_at"] == []
    assert set(record["seconds"]) == {"keyframes", "decode", "fill", "write"} and record["peak_bytes"] > 1e6
    assert record["plan"] == json.loads((whole / "plan.json").read_text())["hash"]
    lines = [json.loads(line) for line in (whole / "journal.jsonl").read_text().splitlines()]
    assert [(e["n"], e["stage"]) for e in lines] == [
        (n, s) for n in range(plan.count) for s in ("keyframes", "segment")
    ]
    assert all(digest(whole / e["file"]) == e["sha256"] for e in lines if e["stage"] == "segment")
    assert len(list((whole / "state").iterdir())) == plan.count and not (whole / "lock").exists()
    shown = video.read(whole / "video.mp4", frames=plan.total)
    assert shown.fps == plan.fps and video.probe(whole / "video.mp4").frames == plan.total
    assert video.probe(whole / "segments" / "000001.mp4").frames == 8
    assert not [f for f in whole.rglob("*") if f.name.endswith(".part")]


def test_the_video_is_what_the_stages_make(whole: Path) -> None:
    rollout = planned()
    predict = Predictor(rollout.stack, FAST, rollout.noise, Told())
    latents = keyframes(rollout.plan, predict, rollout.context())
    frames = torch.cat([c.frames for c in fill(decode(latents, rollout.stack.decode), 2)])
    shown = video.read(whole / "video.mp4", frames=rollout.plan.total).frames
    assert np.abs(shown.astype(int) - to_pixels(frames)).mean() < 4


def test_one_seed_gives_identical_bytes_and_another_does_not(whole: Path, tmp_path: Path) -> None:
    assert digest(roll(planned(), tmp_path / "again") / "video.mp4") == digest(whole / "video.mp4")
    assert digest(roll(planned(seed=2), tmp_path / "other") / "video.mp4") != digest(whole / "video.mp4")


def test_a_longer_rollout_begins_with_the_shorter(whole: Path, tmp_path: Path) -> None:
    longer = roll(planned(scenario=replace(SHORT, seconds=20)), tmp_path / "longer")
    for n in range(5):
        assert digest(longer / "segments" / f"{n:06d}.mp4") == digest(whole / "segments" / f"{n:06d}.mp4")


@pytest.mark.parametrize("call", [0, 3, 4, 10, 17])
def test_resumed_is_uninterrupted(whole: Path, tmp_path: Path, call: int) -> None:
    with pytest.raises(RuntimeError, match="died"):
        roll(planned(Mock(fail_at_call=call)), tmp_path / "run")
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["status"] == "failed" and not (tmp_path / "run" / "video.mp4").exists()
    mock = Mock()
    roll(planned(mock), tmp_path / "run", resume=True)
    assert mock.calls == 3 * (6 - call // 3), "what was done is not made again"
    assert digest(tmp_path / "run" / "video.mp4") == digest(whole / "video.mp4")
    resumed = json.loads((tmp_path / "run" / "run.json").read_text())
    assert resumed["status"] == "done" and resumed["resumed_at"] == ([call // 3] if call >= 3 else [])


def tear_journal(run: Path) -> None:
    text = (run / "journal.jsonl").read_text()
    (run / "journal.jsonl").write_text(text[: len(text) - 20])


def lose_newest_state(run: Path) -> None:
    max((run / "state").iterdir()).unlink()


def flip_newest_state(run: Path) -> None:
    file = max((run / "state").iterdir())
    file.write_bytes(file.read_bytes()[:-1] + b"\xff")


def flip_first_segment(run: Path) -> None:
    file = run / "segments" / "000000.mp4"
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(bytes(data))


def forge_journal(run: Path) -> None:
    lines = (run / "journal.jsonl").read_text().splitlines(keepends=True)
    (run / "journal.jsonl").write_text("".join([lines[0].replace('"first": 0', '"first": 1'), *lines[1:]]))


@pytest.mark.parametrize(
    ("damage", "begins"),
    [(tear_journal, 4), (lose_newest_state, 4), (flip_newest_state, 4), (flip_first_segment, 0), (forge_journal, 0)],
)
def test_resuming_a_damaged_run(whole: Path, tmp_path: Path, damage: Callable[[Path], None], begins: int) -> None:
    run = tmp_path / "run"
    with pytest.raises(RuntimeError, match="died"):
        roll(planned(Mock(fail_at_call=15)), run)  # within window 5: windows 0 to 4 are done
    damage(run)
    mock = Mock()
    roll(planned(mock), run, resume=True)
    assert mock.calls == 3 * (6 - begins)
    assert digest(run / "video.mp4") == digest(whole / "video.mp4")


def test_resuming_what_is_done_makes_nothing(tmp_path: Path) -> None:
    run = roll(planned(), tmp_path / "run")
    before, mock = digest(run / "video.mp4"), Mock()
    roll(planned(mock), run, resume=True)
    assert mock.calls == 0 and digest(run / "video.mp4") == before


def test_sigterm_can_be_resumed(whole: Path, tmp_path: Path) -> None:
    class Terminated(Mock):
        def __call__(self, *args: object) -> torch.Tensor:
            if self.calls == 7:
                os.kill(os.getpid(), signal.SIGTERM)
            return super().__call__(*args)  # type: ignore[arg-type]

    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Interrupted, match="--resume"):
        roll(planned(Terminated()), tmp_path / "run")
    assert signal.getsignal(signal.SIGTERM) == before
    assert json.loads((tmp_path / "run" / "run.json").read_text())["status"] == "interrupted"
    roll(planned(), tmp_path / "run", resume=True)
    assert digest(tmp_path / "run" / "video.mp4") == digest(whole / "video.mp4")


def test_another_plan_is_refused(whole: Path) -> None:
    before = digest(whole / "run.json")
    for other, name in (
        (planned(seed=2), "seed"),
        (planned(scenario=replace(SHORT, seconds=20)), "keyframes"),
        (planned(settings=replace(FAST, context_noise=0.2)), "settings"),
        (prepare(stack(weights={"keyframes": "1" * 64}), SHORT, 1, FAST), "weights"),
    ):
        with pytest.raises(Mistake, match=name):
            roll(other, whole, resume=True)
    assert digest(whole / "run.json") == before


def test_a_full_folder_is_refused(whole: Path, tmp_path: Path) -> None:
    with pytest.raises(Mistake, match="not empty"):
        roll(planned(), whole)
    (tmp_path / "holiday.jpg").touch()
    with pytest.raises(Mistake, match="no run"):
        roll(planned(), tmp_path, resume=True)
    assert [f.name for f in tmp_path.iterdir()] == ["holiday.jpg"]
    with pytest.raises(Mistake, match="is a file"):
        roll(planned(), tmp_path / "holiday.jpg")


@pytest.mark.parametrize("frames", [1, 2])
def test_a_real_opening(clip: Path, tmp_path: Path, frames: int) -> None:
    scenario = replace(SHORT, opening=Opening(str(clip), at=0.2, frames=frames))
    run = roll(planned(scenario=scenario), tmp_path / "run")
    rollout = planned(scenario=scenario)
    assert rollout.given is not None and rollout.plan.given == frames
    source = video.read(clip, fps=KEYFRAME_FPS, start=Fraction(1, 5), frames=frames, size=SIZE)
    torch.testing.assert_close(rollout.stack.decode(rollout.given), to_model(source.frames), atol=0.02, rtol=0)
    first = video.read(run / "video.mp4", frames=1).frames[0].mean()
    assert first == pytest.approx(source.frames[-1].mean(), abs=4), "the output starts at the last given frame"
    assert video.probe(run / "video.mp4").frames == rollout.plan.total


def test_an_opening_that_ends_too_early(clip: Path) -> None:
    with pytest.raises(Mistake, match=r"drive\.mp4"):
        planned(scenario=replace(SHORT, opening=Opening(str(clip), at=1.8)))
    with pytest.raises(Mistake, match="no such file"):
        planned(scenario=replace(SHORT, opening=Opening("/nowhere.mp4")))


def test_labels_and_guidance_reach_the_model() -> None:
    night = replace(SHORT, opening=Opening(generate=Labels(night=True)), guidance=Scales(context=2.0))
    rollout = planned(scenario=night)
    assert rollout.config.guidance == GuidanceConfig(context=2.0) and rollout.config.guidance.labels == 1.0
    plain, dark = planned().context(), rollout.context()
    assert plain.shape == (1, *LATENT) and not torch.equal(plain, dark)
    predict = Predictor(rollout.stack, rollout.config, rollout.noise, Told(Labels(night=True)))
    predict(rollout.plan.window(0), dark)
    assert rollout.stack.keyframes.calls == 9, "a scale for one part alone is a branch without, with it, and with all"  # type: ignore[attr-defined]


def test_what_does_not_fit_is_refused() -> None:
    models = stack()
    with pytest.raises(Mistake, match="32x64 frames, not 16x32"):
        prepare(models, replace(SHORT, size=(16, 32)), 0, FAST)
    with pytest.raises(Mistake, match="overlap"):
        prepare(models, SHORT, 0, replace(FAST, overlap=6))
    with pytest.raises(Mistake, match="24 frames a second"):
        prepare(models, replace(SHORT, fps=24), 0, FAST)
    with pytest.raises(Mistake, match="eta"):
        prepare(models, SHORT, 0, replace(FAST, sampler=SamplerConfig("euler", eta=1.0)))
    blind = replace(models, image=None)
    with pytest.raises(Mistake, match="image weights"):
        prepare(blind, SHORT, 0, FAST)
    with pytest.raises(Mistake, match="image weights"):
        start_frame(blind, FAST, NoiseSource(0, "s"), Told())


def test_models_without_labels(tmp_path: Path) -> None:
    rollout = prepare(stack(tokens=None, null_tokens=None), SHORT, 0, FAST)
    assert torch.isfinite(rollout.context()).all()
    assert (roll(rollout, tmp_path / "run") / "video.mp4").exists()


def test_state_holds_what_the_stages_need(whole: Path) -> None:
    newest = load_file(max((whole / "state").iterdir()))
    assert newest["latents"].shape == (2, *LATENT) and newest["fill.pixels"].shape == (3, *SIZE)
    assert newest["latents"].dtype == torch.float32


class Flat:
    """The most memory that this process had at any call of the decoder, in pages of /proc/self/statm."""

    def __init__(self) -> None:
        self.peak = 0

    def __call__(self, latents: torch.Tensor) -> torch.Tensor:
        self.peak = max(self.peak, int(Path("/proc/self/statm").read_text().split()[1]))
        return stack().decode(latents)


def test_memory_of_ten_minutes_is_that_of_one(tmp_path: Path) -> None:
    def peak(minutes: float, name: str) -> int:
        gc.collect()
        meter = Flat()
        models: Stack = stack(decode=meter, frames=20)  # fewer, larger windows: each waits for the disk
        quick = RolloutConfig(sampler=SamplerConfig(steps=1), start=SamplerConfig(steps=1), states="newest")
        rollout = prepare(models, Scenario(seconds=60 * minutes, fps=1.875), 0, quick)
        assert json.dumps(describe(rollout.plan, {}))
        roll(rollout, tmp_path / name)
        return meter.peak

    peak(1, "warm")
    one, ten = peak(1, "one"), peak(10, "ten")
    assert ten < 1.05 * one
    assert len(list((tmp_path / "ten" / "state").iterdir())) == 2


def test_denoiser_level_is_per_frame() -> None:
    class Checks(Mock):
        def __call__(self, x: torch.Tensor, level: Level, condition: object) -> torch.Tensor:
            assert level.sigma.shape == x.shape[:2] == (1, FRAMES) and level.index is not None
            return super().__call__(x, level, condition)  # type: ignore[arg-type]

    predict = Predictor(stack(Checks()), FAST, NoiseSource(0, "s"), Told())
    assert torch.isfinite(predict(Window(0, 0, 1, 0, 6), torch.zeros(1, *LATENT))).all()
