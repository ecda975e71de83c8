"""What stands beside the road and lies on the land: houses, trees, posts, signs, lamps, fields. Nothing here moves."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from drivesim.randomness import generator
from drivesim.world import shapes
from drivesim.world.look import BLUE, RED, ROOFS, WALLS, WHITE, YELLOW, Colour, Look, scaled

TREES_TO, HOUSES_TO = 190.0, 260.0  # metres

_NEEDLES: Colour = (36, 98, 58)
Part = tuple[np.ndarray, Colour, bool]  # corners N 2 (right, up) in metres, albedo, whether it glows at night


class Picture:
    """Flat convex parts, upright and facing the camera, in the order in which they are painted.

    ``points`` ``N 2`` (right, up) holds the corners of all, ``parts`` (first, end) of each. ``colours`` is ``F 3``,
    ``glows`` ``F`` bool: what shines at night.
    """

    def __init__(self, parts: tuple[Part, ...]):
        ends = np.cumsum([len(points) for points, _, _ in parts]).tolist()
        self.points = np.concatenate([points for points, _, _ in parts])
        self.parts = tuple(zip([0, *ends[:-1]], ends, strict=True))
        self.colours = np.array([colour for _, colour, _ in parts], float)
        self.glows = np.array([glow for _, _, glow in parts])
        self.radius = float(np.abs(self.points[:, 0]).max())


@dataclass(frozen=True, eq=False)
class Thing:
    """A house (``mesh``) or anything else (``picture``) at road coordinates.

    Args:
        shadow: radius of the shadow on the ground in metres, 0 for none.
        lamp: height of a street lamp's light in metres and its reach to the right, None for no lamp.
    """

    s: float
    lateral: float
    picture: Picture | None = None
    mesh: shapes.Mesh | None = None
    shadow: float = 0.0
    lamp: tuple[float, float] | None = None
    reach: float = TREES_TO

    @property
    def radius(self) -> float:
        """Metres around its place within which it stands."""
        shape = self.mesh or self.picture
        return shape.radius if shape is not None else 0.0


@dataclass(frozen=True)
class Field:
    """A patch of land from ``s0`` to ``s1`` and from ``l0`` to ``l1``."""

    s0: float
    s1: float
    l0: float
    l1: float
    colour: Colour


@dataclass(frozen=True)
class _Row:
    kind: str
    side: int
    pitch: float
    share: float
    reach: float


def ring(x: float, y: float, rx: float, ry: float, n: int = 12) -> np.ndarray:
    """An ellipse's corners, ``n 2``."""
    a = np.linspace(0, 2 * np.pi, n, endpoint=False)
    return np.stack([x + rx * np.cos(a), y + ry * np.sin(a)], 1)


def quad(x0: float, x1: float, y0: float, y1: float) -> np.ndarray:
    return np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)])


class Roadside:
    """All rows of one seed; a row is a side of the road with places at a pitch, some of them taken."""

    def __init__(self, seed: int, look: Look, edge: float):
        self.seed, self.look = seed, look
        rng = generator("world", seed, "roadside")
        self.edge = edge  # metres from the centre line to the end of what is paved
        self.town = float(rng.uniform(0, 1))
        lamps = self.town > 0.4 or (look.night and rng.random() < 0.7)
        lamp_side = int(rng.choice([-1, 1]))
        self.rows = [_Row("lamp", lamp_side, 34.0, 0.95 if lamps else 0.0, TREES_TO)]
        for side in (-1, 1):
            self.rows.append(_Row("near", side, 17.0, rng.uniform(0.35, 0.8), TREES_TO))
            self.rows.append(
                _Row("house", side, 21.0, np.clip(self.town * rng.uniform(0.7, 1.3), 0.08, 0.85), HOUSES_TO)
            )
            self.rows.append(_Row("wood", side, 19.0, (1 - 0.7 * self.town) * rng.uniform(0.3, 0.9), HOUSES_TO))
            self.rows.append(_Row("field", side, 46.0, 0.75 * (1 - 0.5 * self.town), HOUSES_TO))
        self._thing = lru_cache(maxsize=4096)(self._make)

    def at(self, s: float) -> tuple[list[Thing], list[Field]]:
        """What is in sight of a camera ``s`` metres along."""
        things: list[Thing] = []
        fields: list[Field] = []
        for number, row in enumerate(self.rows):
            for place in range(int((s - 50) // row.pitch), int((s + row.reach) // row.pitch) + 1):
                made = self._thing(number, place)
                if isinstance(made, Field):
                    fields.append(made)
                elif made is not None and -6 < made.s - s < row.reach:
                    things.append(made)
        return things, fields

    def _make(self, number: int, place: int) -> Thing | Field | None:
        row = self.rows[number]
        rng = generator("world", self.seed, "row", number, place)
        if rng.random() >= row.share:
            return None
        s = row.pitch * (place + (0.25 if row.kind == "house" else 0.45) * rng.random())
        if row.kind == "lamp":
            return self._lamp(row.pitch * place, row.side)
        if row.kind == "house":
            return self._house(s, row.side, rng)
        if row.kind == "wood":
            return self._tree(s, row.side * (self.edge + rng.uniform(26, 42)), rng, rng.uniform(1.1, 1.7))
        if row.kind == "field":
            near = self.edge + rng.uniform(6, 9)
            colour = scaled(self.look.field, rng.uniform(0.8, 1.1))
            ends = row.side * near, row.side * (near + rng.uniform(25, 45))
            return Field(s, s + rng.uniform(22, 40), min(ends), max(ends), colour)
        lateral = row.side * (self.edge + rng.uniform(3.4, 5.0))
        kind = rng.choice(["tree", "bush", "sign", "post"], p=[0.5, 0.2, 0.18, 0.12])
        if kind == "tree":
            return self._tree(s, lateral, rng, rng.uniform(0.7, 1.05))
        if kind == "bush":
            return self._bush(s, lateral, rng)
        return self._sign(s, row.side * (self.edge + 0.5), rng) if kind == "sign" else self._board(s, lateral, rng)

    def _tree(self, s: float, lateral: float, rng: np.random.Generator, size: float) -> Thing:
        leaf = scaled(self.look.leaves[rng.integers(len(self.look.leaves))], rng.uniform(0.85, 1.1))
        dark, light, bark = scaled(leaf, 0.78), scaled(leaf, 1.12), (98, 70, 48)
        h, w = size * rng.uniform(5.5, 8.5), size * rng.uniform(1.5, 2.4)
        trunk = quad(-0.17 * size, 0.17 * size, 0, 0.5 * h)
        if rng.random() < 0.3:
            leaf = scaled(_NEEDLES, rng.uniform(0.85, 1.25))
            dark = scaled(leaf, 0.78)
            low = np.array([(-w * 0.85, 0.16 * h), (w * 0.85, 0.16 * h), (0, 0.75 * h)])
            high = np.array([(-w * 0.6, 0.48 * h), (w * 0.6, 0.48 * h), (0, h)])
            parts: tuple[Part, ...] = ((trunk, bark, False), (low, dark, False), (high, leaf, False))
        else:
            crown, glint = ring(0, 0.66 * h, w, 0.34 * h, 14), ring(-0.25 * w, 0.74 * h, 0.6 * w, 0.2 * h)
            parts = ((trunk, bark, False), (crown, dark, False), (glint, light, False))
        return Thing(s, lateral, Picture(parts), shadow=0.7 * w, reach=HOUSES_TO if size > 1.05 else TREES_TO)

    def _bush(self, s: float, lateral: float, rng: np.random.Generator) -> Thing:
        leaf = scaled(self.look.leaves[rng.integers(len(self.look.leaves))], 0.9)
        w, h = rng.uniform(0.9, 1.6), rng.uniform(0.5, 0.8)
        parts = (
            (ring(0, h * 0.9, w, h), scaled(leaf, 0.8), False),
            (ring(-0.2 * w, h * 1.1, 0.6 * w, 0.6 * h), leaf, False),
        )
        return Thing(s, lateral, Picture(parts), shadow=w, reach=120.0)

    def _sign(self, s: float, lateral: float, rng: np.random.Generator) -> Thing:
        pole, grey = quad(-0.06, 0.06, 0, 2.2), (150, 152, 156)
        kind = rng.integers(3)
        if kind == 0:
            plate: tuple[Part, ...] = (
                (ring(0, 2.5, 0.5, 0.5, 16), RED, False),
                (ring(0, 2.5, 0.33, 0.33, 16), WHITE, False),
            )
        elif kind == 1:
            outer, inner = (
                np.array([(-0.6, 2.1), (0.6, 2.1), (0, 3.1)]),
                np.array([(-0.34, 2.25), (0.34, 2.25), (0, 2.82)]),
            )
            plate = ((outer, RED, False), (inner, WHITE, False))
        else:
            plate = ((quad(-0.5, 0.5, 2.0, 3.0), BLUE, False), (quad(-0.2, 0.2, 2.2, 2.8), WHITE, False))
        return Thing(s, lateral, Picture(((pole, grey, False), *plate)), reach=130.0)

    def _board(self, s: float, lateral: float, rng: np.random.Generator) -> Thing:
        colour = [YELLOW, BLUE, RED, (30, 140, 80)][rng.integers(4)]
        legs = ((quad(-0.9, -0.75, 0, 2), (110, 112, 118), False), (quad(0.75, 0.9, 0, 2), (110, 112, 118), False))
        board = ((quad(-1.5, 1.5, 1.8, 3.5), colour, False), (quad(-1.1, 1.1, 2.5, 2.85), WHITE, False))
        return Thing(s, lateral, Picture((*legs, *board)), reach=150.0)

    def _lamp(self, s: float, side: int) -> Thing:
        grey, height, arm = (120, 124, 130), 6.4, 1.9
        reach = -side * arm
        beam = quad(min(0, reach), max(0, reach), height - 0.14, height)
        head = quad(reach - 0.4, reach + 0.4, height - 0.25, height + 0.05)
        parts = ((quad(-0.1, 0.1, 0, height), grey, False), (beam, grey, False), (head, (255, 226, 160), True))
        return Thing(s, side * (self.edge + 0.4), Picture(parts), lamp=(height - 0.1, reach))

    def _house(self, s: float, side: int, rng: np.random.Generator) -> Thing:
        wall = scaled(WALLS[rng.integers(len(WALLS))], rng.uniform(0.9, 1.05))
        roof = ROOFS[rng.integers(len(ROOFS))]
        tall = rng.random() < 0.3 * self.town
        length, depth = rng.uniform(7, 13), rng.uniform(7, 10)
        height = rng.uniform(8.5, 12.0) if tall else rng.uniform(3.2, 6.2)
        lit = rng.random(12) < 0.55
        mesh = shapes.house(wall, roof, length, depth, height, not tall, lit)
        return Thing(s, side * (self.edge + depth / 2 + rng.uniform(6, 11)), mesh=mesh, reach=HOUSES_TO)
