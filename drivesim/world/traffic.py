"""Who is on the road: vehicles and pedestrians, each a closed-form function of time, with ids that last.

Everyone belongs to a stream: places at a pitch along the road, some of them taken, that move together. So nobody
overtakes within a stream, nobody passes through another, and who is near at time ``t`` needs no history.
"""

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np

from drivesim.randomness import generator
from drivesim.world import shapes
from drivesim.world.look import CLOTHES, PAINTS, WHITE, Colour, scaled
from drivesim.world.road import LANE, Course, Waves
from drivesim.world.roadside import Picture, quad, ring

SIGHT = 150.0  # metres within which traffic is painted
_HEAD = ring(0, 0, 1, 1, 10)
_STEPS = 5.2  # radians of a walk a second
_BEHIND = 12.0  # metres behind the camera within which a long vehicle still reaches into view


@dataclass(frozen=True, eq=False)
class Agent:
    """One vehicle or pedestrian at one moment: ``s`` and ``lateral`` of its centre in road coordinates.

    Args:
        along: True where it looks the way the camera drives.
        mesh: its shape, None for a pedestrian.
        clothes: a pedestrian's coat and trousers; ``stride`` is the phase of the walk in radians.
    """

    track: int
    cls: str
    s: float
    lateral: float
    along: bool
    mesh: shapes.Mesh | None = None
    lit: bool = True
    clothes: tuple[Colour, Colour] = (WHITE, WHITE)
    height: float = 1.7
    stride: float = 0.0

    @property
    def top(self) -> float:
        """Metres above the ground."""
        return self.mesh.top if self.mesh is not None else self.height

    @property
    def radius(self) -> float:
        """Metres around its place within which it stands."""
        return self.mesh.radius if self.mesh is not None else 0.5


@dataclass(frozen=True)
class Stream:
    """Places ``pitch`` metres apart, each taken with probability ``share``, that move by ``drift(t)`` metres."""

    name: str
    number: int
    pitch: float
    share: float
    lateral: float
    along: bool
    drift: Waves
    kinds: tuple[float, float, float] = (0.76, 0.13, 0.11)  # shares of cars, trucks, buses
    lit: bool = True
    walkers: bool = False
    rides: bool = False  # drift is relative to the camera
    jitter: float = 0.3  # share of the pitch by which a place is shifted


def still(speed: float = 0.0, sway: float = 0.0, period: float = 20.0, phase: float = 0.0) -> Waves:
    """A drift of ``speed`` metres a second that sways by ``sway`` metres a second."""
    return Waves(speed, np.array([sway]), np.array([2 * np.pi / period]), np.array([phase]))


class Traffic:
    """All streams of one seed."""

    def __init__(self, seed: int, course: Course):
        self.seed, self.course = seed, course
        rng = generator("world", seed, "traffic")
        self.density = 0.0 if rng.random() < 0.12 else float(rng.uniform(0.1, 1.0))
        self.edge = course.half  # metres from the centre line to the end of what is paved
        self.streams = self._streams(rng)
        self._member = lru_cache(maxsize=4096)(self._make)

    def _streams(self, rng: np.random.Generator) -> list[Stream]:
        course, d = self.course, self.density
        streams: list[Stream] = []

        def add(name: str, share: float, lateral: float, along: bool, drift: Waves, pitch: float, **more: Any) -> None:
            streams.append(Stream(name, len(streams), pitch, share, lateral, along, drift, **more))

        for lane in range(course.lanes):
            lateral = LANE * (lane + 0.5)
            oncoming = still(-rng.uniform(3.2, 4.8), 0.5, rng.uniform(20, 40), rng.uniform(0, 6))
            add("oncoming", 0.9 * d, -lateral, False, oncoming, rng.uniform(24, 34))
            sway = still(
                0.0, rng.uniform(0.12, 0.3), rng.uniform(28, 45), rng.choice([-1, 1]) * np.pi / 2
            )  # at most 2.2 m
            if lateral == course.ego_lane:
                add("ahead", d**0.6, lateral, True, sway, rng.uniform(20, 30), rides=True, kinds=(0.82, 0.09, 0.09))
            else:
                passing = rng.choice([-1, 1]) * rng.uniform(0.6, 1.6)
                drift = Waves(passing, sway.a, sway.q, sway.p)
                add("beside", 0.9 * d, lateral, True, drift, rng.uniform(22, 30), rides=True)
        if course.lanes == 1 and rng.random() < 0.45:
            self.edge += 2.3
            for side in (-1, 1):
                share = 0.65 * d * rng.uniform(0.4, 1.0)
                lateral = side * (course.half + 1.15)
                add("parked", share, lateral, side > 0, still(), 9.0, kinds=(1, 0, 0), lit=False, jitter=0.2)
        crowd = 0.0 if rng.random() < 0.3 else rng.uniform(0.1, 0.55)
        for side in (-1, 1):
            for along in (True, False):
                walk = still((1 if along else -1) * rng.uniform(0.9, 1.5))
                lateral = side * (self.edge + (1.0 if along else 1.7))
                add("walkers", crowd, lateral, along, walk, 21.0, walkers=True)
        return streams

    def at(self, t: float, s: float) -> list[Agent]:
        """Everyone within sight at ``t`` seconds of a camera that is ``s`` metres along."""
        agents = []
        for stream in self.streams:
            shift = float(stream.drift.integral(t)) + (s if stream.rides else 0.0)
            first = int(np.floor((s - _BEHIND - shift) / stream.pitch)) - 1
            last = int(np.ceil((s + SIGHT - shift) / stream.pitch))
            for place in range(first, last + 1):
                member = self._member(stream.number, place)
                if member is None:
                    continue
                offset, agent = member
                position = stream.pitch * place + offset + shift
                if -_BEHIND < position - s < SIGHT:
                    agents.append(replace(agent, s=position, stride=agent.stride + _STEPS * t))
        return agents

    def _make(self, number: int, place: int) -> tuple[float, Agent] | None:
        """The place's shift in metres and who has it, at no time yet; None where it is free."""
        stream = self.streams[number]
        rng = generator("world", self.seed, "stream", number, place)
        if rng.random() >= stream.share:
            return None
        offset = stream.pitch * stream.jitter * rng.random()
        track = 100_000 * number + place % 100_000
        if stream.walkers:
            return offset, self._walker(stream, track, rng)
        if stream.name == "ahead":  # a bounded queue before the camera; nothing drives up from behind
            if not 0 <= place <= 4:
                return None
            offset += 9.0
        cls = str(rng.choice(["car", "truck", "bus"], p=stream.kinds))
        mesh = _vehicle(cls, rng)
        if stream.name == "ahead":
            offset += np.ptp(mesh.points[:, 0]) / 2  # the gap is counted to its rear
        lateral = stream.lateral + rng.uniform(-0.2, 0.2)
        return offset, Agent(track, cls, 0.0, lateral, stream.along, mesh, stream.lit)

    def _walker(self, stream: Stream, track: int, rng: np.random.Generator) -> Agent:
        picks = rng.permutation(len(CLOTHES))[:2]
        clothes = CLOTHES[picks[0]], scaled(CLOTHES[picks[1]], 0.45)
        height, phase = rng.uniform(1.55, 1.85), rng.uniform(0, 6)
        return Agent(track, "pedestrian", 0.0, stream.lateral, stream.along, None, False, clothes, height, phase)


def _vehicle(cls: str, rng: np.random.Generator) -> shapes.Mesh:
    paint = PAINTS[rng.integers(len(PAINTS))]
    if cls == "truck":
        cargo = [WHITE, (225, 190, 60), (60, 130, 190), (190, 60, 50), (90, 160, 100)][rng.integers(5)]
        return shapes.truck(paint, cargo, rng.uniform(7.0, 8.5), 2.4, rng.uniform(3.0, 3.5))
    if cls == "bus":
        return shapes.bus(
            [(200, 45, 40), (240, 185, 40), (40, 110, 190), (50, 150, 95)][rng.integers(4)],
            rng.uniform(9, 11),
            2.5,
            3.1,
        )
    van = rng.random() < 0.2
    height = rng.uniform(1.85, 2.1) if van else rng.uniform(1.42, 1.62)
    length = rng.uniform(3.9, 4.7)
    return shapes.car(paint, length, rng.uniform(1.75, 1.9), height, 0.0 if van or rng.random() < 0.5 else 0.55)


def walker(agent: Agent) -> Picture:
    """A pedestrian in step."""
    h, swing = agent.height, 0.22 * np.sin(agent.stride)
    coat, trousers = agent.clothes
    legs = [
        np.array([(x - 0.09, 0.5 * h), (x + 0.09, 0.5 * h), (x + step + 0.08, 0), (x + step - 0.08, 0)])
        for x, step in ((-0.1, swing), (0.1, -swing))
    ]
    body = np.array([(-0.22, 0.47 * h), (0.22, 0.47 * h), (0.27, 0.83 * h), (-0.27, 0.83 * h)])
    head, hair = _HEAD * (0.13, 0.09 * h) + (0, 0.91 * h), quad(-0.1, 0.1, 0.945 * h, h)
    skin, dark = (224, 176, 142), (70, 48, 36)
    return Picture(
        tuple(
            (*part, False)
            for part in ((legs[0], trousers), (legs[1], trousers), (body, coat), (head, skin), (hair, dark))
        )
    )
