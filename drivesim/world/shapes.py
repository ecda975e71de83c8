"""Solid shapes with few faces: vehicles and houses. Local axes in metres: x ahead, y to the right, z up."""

from dataclasses import dataclass, field

import numpy as np

from drivesim.world.look import Colour, scaled

GLASS: Colour = (48, 62, 82)
TYRE: Colour = (26, 26, 30)
TAIL, HEAD, WINDOW = 1, 2, 3  # what a face is at night: a tail lamp, a headlamp, a lit window
SHINE: dict[int, Colour] = {TAIL: (255, 36, 30), HEAD: (255, 250, 226), WINDOW: (255, 214, 130)}


@dataclass(frozen=True, eq=False)
class Mesh:
    """Flat faces, in the order in which they are painted, in groups that are painted far to near.

    Args:
        points: ``N 3`` corners.
        faces: the indices of each face's corners.
        normals, offsets: ``F 3`` outward normals and ``F``: the eye sees a face where ``normal @ eye > offset``.
        colours: ``F 3`` albedo times the shade of the face's direction, 0..255.
        lamps: ``F`` 0 or what the face is at night.
        areas: ``F`` square metres.
        groups: (layer, centre, first face, end) per convex group; higher layers are painted later.
        ground: ``4 3`` corners of the shadow.
        shines, at_night: ``F`` bool and ``F 3``, which faces shine at night and the colours then.
        radius, top: metres from the middle within which it stands, and its height.
    """

    points: np.ndarray
    faces: tuple[np.ndarray, ...]
    normals: np.ndarray
    offsets: np.ndarray
    colours: np.ndarray
    lamps: tuple[int, ...]
    areas: np.ndarray
    groups: tuple[tuple[int, np.ndarray, int, int], ...]
    ground: np.ndarray
    shines: np.ndarray = field(init=False)
    at_night: np.ndarray = field(init=False)
    radius: float = field(init=False)
    top: float = field(init=False)

    def __post_init__(self) -> None:
        shines = np.array([lamp > 0 for lamp in self.lamps])
        night = np.array([SHINE.get(lamp, colour) for lamp, colour in zip(self.lamps, self.colours, strict=True)])
        radius = float(np.hypot(self.ground[:, 0], self.ground[:, 1]).max())
        for name, value in (
            ("shines", shines),
            ("at_night", night),
            ("radius", radius),
            ("top", self.points[:, 2].max()),
        ):
            object.__setattr__(self, name, value)


@dataclass
class _Maker:
    centre: np.ndarray = field(default_factory=lambda: np.zeros(3))
    points: list[np.ndarray] = field(default_factory=list)
    faces: list[np.ndarray] = field(default_factory=list)
    normals: list[np.ndarray] = field(default_factory=list)
    colours: list[np.ndarray] = field(default_factory=list)
    lamps: list[int] = field(default_factory=list)
    areas: list[float] = field(default_factory=list)
    groups: list[tuple[int, np.ndarray, int, int]] = field(default_factory=list)

    def face(self, corners: np.ndarray, colour: Colour, lamp: int = 0) -> np.ndarray:
        (ax, ay, az), (bx, by, bz) = (corners[1:3] - corners[0]).tolist()
        normal = np.array([ay * bz - az * by, az * bx - ax * bz, ax * by - ay * bx])
        area = float(np.sqrt(normal @ normal))
        self.areas.append(area)  # of a rectangle; for an octagon too little, and that is no speck
        normal /= area
        if normal @ (corners.mean(0) - self.centre) < 0:
            normal = -normal
        shade = np.abs(normal) @ np.array([0.76, 0.9, 1.06]) / np.abs(normal).sum()
        first = sum(map(len, self.points))
        self.points.append(corners)
        self.faces.append(np.arange(first, first + len(corners)))
        self.normals.append(normal)
        self.colours.append(np.asarray(colour) * shade)
        self.lamps.append(lamp)
        return corners

    def box(
        self, x: tuple, y: tuple, z: tuple, colour: Colour, slope: tuple = (0, 0, 0), top: Colour | None = None
    ) -> dict:
        """Five faces of a box whose top is drawn in by ``slope`` (behind, ahead, each side); bottom left first."""
        (x0, x1), (y0, y1), (z0, z1), (back, ahead, side) = x, y, z, slope
        b = [np.array(p) for p in ((x0, y0, z0), (x1, y0, z0), (x1, y1, z0), (x0, y1, z0))]
        x0, x1, y0, y1 = x0 + back, x1 - ahead, y0 + side, y1 - side
        t = [np.array(p) for p in ((x0, y0, z1), (x1, y0, z1), (x1, y1, z1), (x0, y1, z1))]
        self.centre = np.mean(b + t, axis=0)
        made = {
            "top": self.face(np.stack(t), top or colour),
            "rear": self.face(np.stack([b[0], b[3], t[3], t[0]]), colour),
            "front": self.face(np.stack([b[2], b[1], t[1], t[2]]), colour),
            "left": self.face(np.stack([b[1], b[0], t[0], t[1]]), colour),
            "right": self.face(np.stack([b[3], b[2], t[2], t[3]]), colour),
        }
        return made

    def patch(self, wall: np.ndarray, u: tuple, v: tuple, colour: Colour, lamp: int = 0) -> None:
        """A part of a four-cornered face: ``u`` from left to right, ``v`` from bottom to top, both 0..1."""

        def at(a: float, b: float) -> np.ndarray:
            return (1 - b) * ((1 - a) * wall[0] + a * wall[1]) + b * ((1 - a) * wall[3] + a * wall[2])

        self.face(np.stack([at(u[0], v[0]), at(u[1], v[0]), at(u[1], v[1]), at(u[0], v[1])]), colour, lamp)

    def wheels(self, axles: tuple[float, ...], half: float, radius: float) -> None:
        turn = np.linspace(0, 2 * np.pi, 9)[:-1] + np.pi / 8
        for x in axles:
            for y in (-half, half):
                ring = [np.array([x + radius * np.cos(a), y, radius * (1 + np.sin(a))]) for a in turn]
                self.face(np.stack(ring), TYRE)

    def group(self, layer: int = 1) -> None:
        """Ends a convex group."""
        first = self.groups[-1][3] if self.groups else 0
        self.groups.append((layer, np.concatenate(self.points[first:]).mean(0), first, len(self.faces)))

    def mesh(self) -> Mesh:
        points = np.concatenate(self.points)
        (x0, y0), (x1, y1) = points[:, :2].min(0) - 0.1, points[:, :2].max(0) + 0.1
        ground = np.array([(x0, y0, 0.0), (x1, y0, 0.0), (x1, y1, 0.0), (x0, y1, 0.0)])
        normals = np.stack(self.normals)
        offsets = np.array([normal @ points[face[0]] for normal, face in zip(normals, self.faces, strict=True)])
        colours, lamps, areas = np.stack(self.colours), tuple(self.lamps), np.array(self.areas)
        return Mesh(points, tuple(self.faces), normals, offsets, colours, lamps, areas, tuple(self.groups), ground)


def _under(make: _Maker, length: float, width: float) -> None:
    """The dark underside and, seen from behind or ahead, the tyres."""
    x, y = length / 2 - 0.1, width / 2 - 0.1
    low = make.box((-x, x), (-y, y), (0.0, 0.42), TYRE)
    for side in ("rear", "front", "left", "right"):
        make.patch(low[side], (0.17, 0.83) if side in ("rear", "front") else (0.28, 0.72), (0.0, 0.45), (60, 60, 62))


def _lights(make: _Maker, rear: np.ndarray, front: np.ndarray, v: tuple[float, float], wide: float) -> None:
    for u in ((0.03, 0.03 + wide), (0.97 - wide, 0.97)):
        make.patch(rear, u, v, (200, 20, 24), TAIL)
        make.patch(front, u, v, (250, 246, 220), HEAD)
    make.patch(rear, (0.38, 0.62), (0.12, 0.36), (235, 230, 205))


def car(paint: Colour, length: float, width: float, height: float, boot: float) -> Mesh:
    """A car; ``boot`` metres of body behind the cabin."""
    make, x, y = _Maker(), length / 2, width / 2
    _under(make, length, width)
    body = make.box((-x, x), (-y, y), (0.3, 0.92), paint, (0.05, 0.1, 0.04))
    _lights(make, body["rear"], body["front"], (0.48, 0.86), 0.24)
    make.wheels((-0.3 * length, 0.31 * length), y + 0.01, 0.34)
    cabin = make.box((-x + 0.1 + boot, x - 1.1), (-y + 0.06, y - 0.06), (0.92, height), paint, (0.35, 0.6, 0.16))
    for side in ("rear", "front"):
        make.patch(cabin[side], (0.08, 0.92), (0.1, 0.86), GLASS)
    for side in ("left", "right"):
        make.patch(cabin[side], (0.08, 0.5), (0.1, 0.86), GLASS)
        make.patch(cabin[side], (0.55, 0.92), (0.1, 0.86), GLASS)
    make.group()
    return make.mesh()


def truck(paint: Colour, cargo: Colour, length: float, width: float, height: float) -> Mesh:
    """A lorry: a cab and a tall box."""
    make, x, y = _Maker(), length / 2, width / 2
    _under(make, length, width)
    make.wheels((-0.36 * length, -0.2 * length, 0.36 * length), y + 0.01, 0.48)
    make.group(0)
    box = make.box((-x, x - 2.2), (-y, y), (0.75, height), cargo)
    for u in ((0.03, 0.2), (0.8, 0.97)):
        make.patch(box["rear"], u, (0.0, 0.09), (200, 20, 24), TAIL)
    make.patch(box["rear"], (0.485, 0.515), (0.12, 1.0), scaled(cargo, 0.6))
    for side in ("left", "right"):
        make.patch(box[side], (0.0, 1.0), (0.3, 0.45), paint)
    make.group()
    cab = make.box((x - 2.0, x), (-y + 0.05, y - 0.05), (0.45, 0.82 * height), paint, (0, 0.25, 0.05))
    make.patch(cab["front"], (0.08, 0.92), (0.5, 0.88), GLASS)
    for u in ((0.04, 0.22), (0.78, 0.96)):
        make.patch(cab["front"], u, (0.06, 0.2), (250, 246, 220), HEAD)
    make.patch(cab["left"], (0.1, 0.7), (0.5, 0.88), GLASS)
    make.patch(cab["right"], (0.3, 0.9), (0.5, 0.88), GLASS)
    make.group()
    return make.mesh()


def bus(paint: Colour, length: float, width: float, height: float) -> Mesh:
    make, x, y = _Maker(), length / 2, width / 2
    _under(make, length, width)
    body = make.box((-x, x), (-y, y), (0.35, height), paint, (0.05, 0.15, 0.06), top=(235, 235, 230))
    for side in ("left", "right"):
        make.patch(body[side], (0.0, 1.0), (0.2, 0.3), (240, 240, 236))
        for n in range(5):
            make.patch(body[side], (0.03 + 0.193 * n, 0.19 + 0.193 * n), (0.45, 0.85), GLASS, WINDOW)
    make.patch(body["rear"], (0.1, 0.9), (0.52, 0.86), GLASS, WINDOW)
    make.patch(body["front"], (0.06, 0.94), (0.38, 0.84), GLASS)
    make.patch(body["front"], (0.15, 0.85), (0.88, 0.98), (250, 170, 30), WINDOW)
    _lights(make, body["rear"], body["front"], (0.1, 0.24), 0.16)
    make.wheels((-0.3 * length, 0.3 * length), y + 0.01, 0.48)
    make.group()
    return make.mesh()


def house(wall: Colour, roof: Colour, length: float, depth: float, height: float, gable: bool, lit: np.ndarray) -> Mesh:
    """A house that shows its ``left`` side to the road. ``lit`` says which of its windows are lit at night."""
    make, x, y = _Maker(), length / 2, depth / 2
    made = make.box((-x, x), (-y, y), (0.0, height), wall, top=roof)
    floors, n = (1 if height < 4 else 2 if height < 7 else 3), 0
    for side, columns in (("left", max(2, round(length / 3.5))), ("rear", 2), ("front", 2)):
        for floor in range(floors):
            for column in range(columns):
                u, v = (column + 0.28) / columns, (floor + 0.32) / floors
                place = (u, u + 0.44 / columns), (v, v + 0.44 / floors)
                make.patch(made[side], *place, (70, 86, 108), WINDOW if lit[n % len(lit)] else 0)
                n += 1
    make.group()
    if gable:
        e, rise = 0.4, 0.34 * depth
        low = [
            np.array(p)
            for p in (
                (-x - e, -y - e, height),
                (x + e, -y - e, height),
                (x + e, y + e, height),
                (-x - e, y + e, height),
            )
        ]
        ridge = [np.array((-x - e, 0.0, height + rise)), np.array((x + e, 0.0, height + rise))]
        make.centre = np.array([0.0, 0.0, height])
        make.face(np.stack([low[0], low[1], ridge[1], ridge[0]]), roof)
        make.face(np.stack([low[3], low[2], ridge[1], ridge[0]]), roof)
        make.face(np.stack([low[0], low[3], ridge[0]]), wall)
        make.face(np.stack([low[1], low[2], ridge[1]]), wall)
        make.group(2)
    return make.mesh()
