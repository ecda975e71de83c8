"""The preflight of a rollout: its calls times their seconds, and what does not fit, with the setting that does."""

from dataclasses import replace
from pathlib import Path

import pytest

from drivesim.errors import Mistake
from drivesim.jobs import generate, outlook
from drivesim.jobs.preflight import MIB, Room
from drivesim.rollout.engine import Rollout, prepare, roll
from drivesim.rollout.probe import Probe, probes
from drivesim.rollout.scenario import Scenario
from drivesim.rollout.settings import RolloutConfig

from .mock import cascade
from .test_cascade import FAST

PLENTY = Room(1 << 50, 1 << 50)


def rollout(settings: RolloutConfig = FAST, seconds: float = 6) -> Rollout:
    return prepare(cascade(), Scenario(seconds=seconds), 1, settings)


class Fake:
    """A clock that a probe moves by 0.5 s and 2 s a step, and a memory of which it takes 16 times ``mib`` MiB."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, mib: dict[str, int]):
        self.time, self.mib, self.ran = 0.0, mib, list[str]()
        monkeypatch.setattr(outlook, "now", lambda device: self.time)
        monkeypatch.setattr(outlook, "probes", self.probes)
        monkeypatch.setattr(outlook._Measured, "_call", lambda made, probe, area: self.call(made, probe, area))

    def probes(self, of: Rollout, shrink: int = 1) -> list[Probe]:
        def run(steps: int) -> None:
            self.time += 0.5 + 2 * steps

        return [replace(probe, run=run) for probe in probes(of, shrink)]

    def call(self, made: outlook._Measured, probe: Probe, area: int) -> None:
        if area == outlook.WHOLE:
            self.ran.append(probe.name)
        made.by_area.setdefault(probe.name, {})[area] = (100 + self.mib.get(probe.name, 1) * area) * MIB


@pytest.mark.parametrize("loading", [20, 1000])
def test_calls_times_seconds(monkeypatch: pytest.MonkeyPatch, loading: int) -> None:
    """And the memory of the largest call, or of the loading of the weights where that took more."""
    Fake(monkeypatch, {"upsample": 3})
    one, two = rollout(), rollout(seconds=9)
    estimate = outlook.foresee([one, two], Path("out"), PLENTY, loading * MIB)
    wanted = {
        probe.name: (probe.calls + other.calls, 0.5 + 2 * probe.steps)
        for probe, other in zip(probes(one), probes(two), strict=True)
    }
    assert {part.name: (part.calls, part.seconds) for part in estimate.parts} == wanted
    assert estimate.seconds == sum(calls * seconds for calls, seconds in wanted.values())
    assert estimate.peak == max(148, loading) * MIB
    height, width = one.course.size
    frames = one.plan.total + two.plan.total
    states = sum(outlook._state(each) * each.plan.count for each in (one, two))
    assert estimate.disk == pytest.approx(frames * height * width * outlook.BITS / 4 + states, abs=2)


def test_what_a_window_leaves_is_at_most_what_is_foretold(tmp_path: Path) -> None:
    made = rollout()
    left = [file.stat().st_size for file in (roll(made, tmp_path / "run") / "state").iterdir()]
    assert len(left) == made.plan.count
    assert max(left) - 2000 < outlook._state(made) < 3 * max(left)  # a header says what the tensors are


@pytest.mark.parametrize(
    ("stage", "mend"),
    [
        ("upsample", "upsample.tile=[32,64] fits"),
        ("decode", "decode.frames=5 fits"),
        ("interpolation-1", "interpolation.batch=2 fits"),
        ("keyframes", "take smaller models"),
    ],
)
def test_what_does_not_fit_is_not_tried(monkeypatch: pytest.MonkeyPatch, stage: str, mend: str) -> None:
    """The stage takes 1600 MiB beside 100; there is room for half of it."""
    fake = Fake(monkeypatch, {stage: 100})
    monkeypatch.setattr(outlook, "COARSE", 1)  # so that latents of 4x8 can be made smaller
    between, above = replace(FAST.interpolation, batch=4), replace(FAST.upsample, tile_overlap=8)
    settings = replace(FAST, interpolation=between, upsample=above, decode=replace(FAST.decode, overlap=2))
    with pytest.raises(Mistake, match="needs about 1.7 GiB of memory, 980 MiB can be had") as told:
        outlook.foresee([rollout(settings)], Path("out"), Room(980 * MIB, 1 << 50))
    assert (told.value.mend or "").startswith(mend) and stage not in fake.ran


def test_real_stages_are_measured_and_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(generate.stacks, "load", lambda *weights: cascade())
    quick = ["sampler.steps=1", "start.steps=1", "interpolation.sampler.steps=1", "upsample.sampler.steps=1"]
    assert generate.run(None, tmp_path, tmp_path / "out", minutes=0.05, settings=quick, dry_run=True) == []
    said = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in said] == ["generate", "time", "memory", "disk"]
    monkeypatch.setattr(Room, "at", lambda out, device: Room(1 << 50, 1000))
    with pytest.raises(Mistake, match="of disk") as told:
        generate.run(None, tmp_path, tmp_path / "out", minutes=0.05, settings=quick)
    assert (told.value.mend or "").startswith("--minutes ") and not list(tmp_path.iterdir())
