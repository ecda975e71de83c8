"""The preflight of ``generate``: every stage is called a few times, first on smaller frames, so that what would not fit
is not tried."""

import math
from collections.abc import Sequence
from pathlib import Path

from drivesim.errors import Mistake, out_of_memory
from drivesim.jobs.preflight import Estimate, Law, Part, Room, check_disk, check_memory, now
from drivesim.rollout import memory
from drivesim.rollout.engine import Rollout
from drivesim.rollout.journal import KEPT_STATES
from drivesim.rollout.probe import Probe, probes

SHRUNK = (4, 2)  # sides of frames are divided by these at first
WHOLE = SHRUNK[0] ** 2  # the area of the frames, in those of the smallest
COARSE = 8  # what the sides of a latent must still divide by then
SLOW = 2.0  # seconds of a call with one step, above which it is called less often
BITS = 0.5  # of a pixel of our files: real drives take 0.2 at 512x1024, what small models make at 64x128 takes 0.6
NOTHING = "take smaller models, or a --device with more memory"


def foresee(rollouts: Sequence[Rollout], out: Path, room: Room, loaded: int | None = None) -> Estimate:
    """What ``rollouts``, of one stack, will take from their beginning.

    Args:
        loaded: bytes that were held at most while the weights were loaded; None where that is not known.

    Raises:
        Mistake: memory or disk do not suffice.
    """
    frames = sum(rollout.plan.total for rollout in rollouts)
    disk = sum(map(_disk, rollouts))
    check_disk(disk, room, out, _shorter(rollouts, room.disk / max(1, disk)))
    alike: dict[object, list[Rollout]] = {}
    for rollout in rollouts:
        alike.setdefault(_shapes(rollout), []).append(rollout)
    parts, peaks = list[Part](), list[int]()
    for group in alike.values():
        calls = [{probe.name: probe.calls for probe in probes(rollout)} for rollout in group]
        found = _Measured(group[0], room)
        peaks += found.peaks
        parts += [Part(name, sum(each[name] for each in calls), taken) for name, taken in found.seconds.items()]
    parts.sort(key=lambda part: -part.calls * part.seconds)
    written = f"{frames} frames at about {BITS} bits a pixel, in segments and as a whole, and what windows leave"
    if peaks and loaded is not None:
        peaks.append(loaded)
    return Estimate("generate", tuple(parts), max(peaks, default=None), disk, written)


class _Measured:
    """``seconds`` of a call of each stage, and ``peaks``, where they are known.

    Raises:
        Mistake: a call does not fit into the memory; it has not been made then.
    """

    def __init__(self, rollout: Rollout, room: Room):
        self.rollout, self.room, self.device = rollout, room, rollout.stack.device
        self.seconds: dict[str, float] = {}
        self.by_area: dict[str, dict[int, int]] = {}
        _, *sides = rollout.stack.latent_shape
        for shrink in SHRUNK:
            if all(side % (shrink * COARSE) == 0 for side in sides):
                for probe in probes(rollout, shrink):
                    self._call(probe, WHOLE // shrink**2)
        for probe in probes(rollout):
            self._check(probe)
            self._call(probe, WHOLE)
            self._check(probe)
            self.seconds[probe.name] = self._time(probe)

    @property
    def peaks(self) -> list[int]:
        return [areas[WHOLE] for areas in self.by_area.values() if WHOLE in areas]

    def _call(self, probe: Probe, area: int) -> None:
        """Once, with one step."""
        try:
            with memory.measured(self.device) as piece:
                probe.run(1)
        except (RuntimeError, MemoryError) as problem:
            if not out_of_memory(problem):
                raise
            what = f"{probe.name} does not fit into the memory of {self.device}"
            raise Mistake(what, where="generate", mend=_smaller(probe.name, self.rollout, 0.5)) from None
        if piece.peak is not None:
            self.by_area.setdefault(probe.name, {})[area] = piece.peak

    def _check(self, probe: Probe) -> None:
        areas = self.by_area.get(probe.name)
        if areas and self.room.memory is not None:
            need, least = Law(areas).at(WHOLE), min(areas.values())
            share = (self.room.memory - least) / max(1, need - least)
            check_memory(need, self.room, f"generate, {probe.name}", _smaller(probe.name, self.rollout, share))

    def _time(self, probe: Probe) -> float:
        """Of a call, which is a line over the steps of its sampler; it has been called before."""
        begin = now(self.device)
        probe.run(1)
        single = now(self.device) - begin
        if probe.steps == 1:
            return single
        more = 2 if single > SLOW else 3
        begin = now(self.device)
        probe.run(more)
        step = max(0.0, now(self.device) - begin - single) / (more - 1)
        return single + (probe.steps - 1) * step


def _shapes(rollout: Rollout) -> tuple[object, ...]:
    """Two that agree in these take as much for a call."""
    return rollout.course.size, rollout.plan.factor, rollout.plan.passes, rollout.given is None, rollout.config


def _disk(rollout: Rollout) -> int:
    height, width = rollout.course.size
    video = round(2 * rollout.plan.total * height * width * BITS / 8)
    return video + _state(rollout) * (rollout.plan.count if rollout.config.states == "all" else KEPT_STATES)


def _state(rollout: Rollout) -> int:
    """Bytes that a window leaves to the next, at most: float32 latents, small frames and large ones that wait."""
    chosen, stack = rollout.course, rollout.stack
    cells, small, large = (math.prod(shape) for shape in (stack.latent_shape, (3, *stack.size), (3, *chosen.size)))
    waiting = rollout.config.overlap * cells + (chosen.decoder.length * cells if chosen.decoder else 0)
    if chosen.upsampler:
        waiting += chosen.upsampler.length * small + chosen.upsampler.overlap * large
    return 4 * waiting


def _smaller(name: str, rollout: Rollout, share: float) -> str:
    """The largest setting with which a call takes at most ``share`` of what it takes as asked."""
    settings = rollout.config
    if name == "upsample" and rollout.stack.upsampler:
        unit, sides = rollout.stack.upsampler.unit, settings.upsample.tile or rollout.course.size
        for parts in (2, 4, 8):
            tile = [side // parts // unit * unit for side in sides]
            if 1 / parts**2 <= share and min(tile) > settings.upsample.tile_overlap:
                return f"upsample.tile=[{tile[0]},{tile[1]}] fits"
    if name == "decode" and rollout.course.decoder:
        if (frames := int(settings.decode.frames * share)) >= max(1, 2 * settings.decode.overlap):
            return f"decode.frames={frames} fits"
    elif name == "decode" and (batch := int(settings.decode.batch * share)) > 0:
        return f"decode.batch={batch} fits"
    if name.startswith("interpolation") and (batch := int(settings.interpolation.batch * share)) > 0:
        return f"interpolation.batch={batch} fits"
    return NOTHING


def _shorter(rollouts: Sequence[Rollout], share: float) -> str:
    longest = max(float(rollout.plan.total / rollout.plan.fps) for rollout in rollouts)
    return f"--minutes {longest / 60 * share:.2g} fits, or name an --out on another disk"
