"""One moment of the world as a picture: the ground, the sky, then everything upright from far to near."""

import numpy as np

from drivesim.world.canvas import NEAR, Canvas, one_side
from drivesim.world.ground import Ground
from drivesim.world.light import Light
from drivesim.world.look import Look
from drivesim.world.road import CAMERA_HEIGHT, Course, View
from drivesim.world.roadside import Field, Picture, Roadside, Thing, ring
from drivesim.world.shapes import HEAD, SHINE, TAIL, Mesh
from drivesim.world.sky import Sky
from drivesim.world.traffic import SIGHT, Agent, walker

_GLOW = {TAIL: 0.42, HEAD: 0.95}  # metres
_STREET_LAMP = (255, 214, 140)
MIN_BOX = 1 / 32  # boxes lower than this share of the frame's height are left out
_SHADOWS_TO = 110.0  # metres
_SPECK = 3.0  # faces that would cover fewer pixels of the canvas are not painted, unless they shine
_DISC = ring(0, 0, 1, 1, 10)

Drawn = tuple[Agent, np.ndarray, float]


class Painter:
    """Paints one seed's world at one size (``H W``)."""

    def __init__(self, seed: int, look: Look, course: Course, roadside: Roadside, size: tuple[int, int]):
        self.look = look
        self.canvas = Canvas(size)
        self.light = Light(look, self.canvas)
        self.ground = Ground(course, roadside, self.light, self.canvas)
        self.sky = Sky(seed, look, self.canvas.focal, self.canvas.width, self.canvas.horizon)
        self._side = self.canvas.width / 2 / self.canvas.focal
        self._smallest = MIN_BOX * self.canvas.height / self.canvas.focal

    def paint(
        self, view: View, things: list[Thing], fields: list[Field], agents: list[Agent]
    ) -> tuple[np.ndarray, list[Drawn]]:
        """The frame, uint8 ``H W 3``, and (agent, box as fractions, visibility) of each agent in it but far ones."""
        items: list[Thing | Agent] = [*things, *agents]
        s, lateral = np.array([i.s for i in items]), np.array([i.lateral for i in items])
        right, forward, psi = view.place(s, lateral)
        size = np.array([i.radius for i in items])
        near = (forward + size > NEAR) & (np.abs(right) - size < (forward + size) * self._side)
        order = np.flatnonzero(near)[np.argsort(-forward[near], kind="stable")]
        placed = [(items[n], float(right[n]), float(forward[n]), float(psi[n])) for n in order]
        self._paint_ground(view, fields, placed)
        self.sky.paint(view.heading, self.canvas.image[: self.canvas.horizon])
        self.canvas.owner[:] = 0
        drawn: list[tuple[Agent, np.ndarray, int]] = []
        for item, x, z, turn in placed:
            if isinstance(item, Agent):
                polygons = self._agent(item, x, z, turn)
                large = z * self._smallest < item.top and len(drawn) < 255
                box = self.canvas.box(polygons) if polygons and large else None
                if box is not None:
                    drawn.append((item, box, self.canvas.cover(np.concatenate(polygons), len(drawn) + 1)))
            else:
                self._thing(item, x, z, turn, hides=bool(drawn))
        left = np.bincount(self.canvas.owner.ravel(), minlength=256)
        return self.canvas.frame(), [(agent, box, left[n] / own) for n, (agent, box, own) in enumerate(drawn, 1) if own]

    def _paint_ground(self, view: View, fields: list[Field], placed: list) -> None:
        shadows, lamps = [], []
        for item, x, z, turn in placed:
            if z > _SHADOWS_TO:
                continue
            if isinstance(item, Agent):
                if item.mesh is None:
                    shadows.append((_DISC * 0.4 + (x, z), True))
                else:
                    shadows.append(
                        (one_side(turned(item.mesh.ground, x, z, turn, item.along), 1, NEAR, 1)[:, :2], True)
                    )
            elif item.shadow:
                shadows.append((_DISC * item.shadow + (x, z), False))
            elif item.lamp is not None:
                lamps.append((x + item.lamp[1], z))
        self.ground.paint(view, fields, [each for each in shadows if len(each[0])], np.array(lamps))

    def _agent(self, agent: Agent, right: float, forward: float, psi: float) -> list[np.ndarray]:
        """Paints an agent; gives the polygons that were painted, none where it is out of the frame."""
        if agent.mesh is not None:
            return self._mesh(agent.mesh, right, forward, psi, agent.along, SIGHT, agent.lit)
        return self._picture(walker(agent), right, forward, SIGHT)

    def _thing(self, thing: Thing, right: float, forward: float, psi: float, hides: bool) -> None:
        if thing.mesh is not None:
            polygons = self._mesh(thing.mesh, right, forward, psi, thing.lateral > 0, thing.reach, True)
            if polygons and hides:
                self.canvas.cover(np.concatenate(polygons), 0)
            return
        assert thing.picture is not None
        polygons = self._picture(thing.picture, right, forward, thing.reach)
        if hides:
            for polygon in polygons:
                self.canvas.fill_small(self.canvas.owner, polygon, (0,), 1)
        if thing.lamp is not None and polygons and self.look.night:
            height, reach = thing.lamp
            at = self.canvas.corners(np.array([right + reach]), forward, height)
            self.canvas.glow(at, 0.9 * self.canvas.focal / forward, _STREET_LAMP)

    def _picture(self, picture: Picture, right: float, forward: float, reach: float) -> list[np.ndarray]:
        if forward < NEAR:
            return []
        corners = self.canvas.corners(picture.points[:, 0] + right, forward, picture.points[:, 1])
        if not self.canvas.inside(corners):
            return []
        polygons = [corners[first:end] for first, end in picture.parts]
        colours = self.light.on(picture.colours, right, forward, reach, picture.glows)
        for polygon, colour in zip(polygons, colours, strict=True):
            self.canvas.fill(polygon, colour)
        return polygons

    def _mesh(
        self, mesh: Mesh, right: float, forward: float, psi: float, along: bool, reach: float, lamps: bool
    ) -> list[np.ndarray]:
        points = turned(mesh.points, right, forward, psi, along)
        whole = bool(points[:, 1].min() > NEAR)
        corners = self.canvas.corners(points[:, 0], np.maximum(points[:, 1], NEAR), points[:, 2])
        if whole and not self.canvas.inside(corners):
            return []
        eye = eye_from(right, forward, psi, along)
        night = self.look.night and lamps
        large = mesh.areas > _SPECK * (forward / self.canvas.focal) ** 2
        facing = (((mesh.normals @ eye) > mesh.offsets) & (large | mesh.shines if night else large)).tolist()
        albedo = mesh.at_night if night else mesh.colours
        colours = self.light.on(albedo, right, forward, reach, mesh.shines if night else None)
        drawn = []
        for _, _, first, end in sorted(mesh.groups, key=lambda g: (g[0], -float(((g[1] - eye) ** 2).sum()))):
            for n in range(first, end):
                if not facing[n]:
                    continue
                face = mesh.faces[n]
                polygon = corners[face] if whole else self._cut(points[face])
                if len(polygon) < 3:
                    continue
                drawn.append(polygon)
                lamp = mesh.lamps[n] if night else 0
                self.canvas.fill(polygon, colours[n])
                if lamp in _GLOW:
                    self.canvas.glow(polygon, _GLOW[lamp] * self.canvas.focal / max(forward, 3.0), SHINE[lamp])
        return drawn

    def _cut(self, points: np.ndarray) -> np.ndarray:
        """Corners of a face of which a part may be too near."""
        kept = one_side(points, 1, NEAR, 1)
        return self.canvas.corners(kept[:, 0], kept[:, 1], kept[:, 2])


def turned(points: np.ndarray, right: float, forward: float, psi: float, along: bool) -> np.ndarray:
    """Local ``N 3`` (x ahead, y right, z up) to camera ``N 3`` (right, forward, up)."""
    c, s = (np.cos(psi), np.sin(psi)) if along else (-np.cos(psi), -np.sin(psi))
    out = np.empty_like(points)
    out[:, 0] = right - points[:, 0] * s + points[:, 1] * c
    out[:, 1] = forward + points[:, 0] * c + points[:, 1] * s
    out[:, 2] = points[:, 2]
    return out


def eye_from(right: float, forward: float, psi: float, along: bool) -> np.ndarray:
    """The camera in the local axes of what stands at a place."""
    c, s = (np.cos(psi), np.sin(psi)) if along else (-np.cos(psi), -np.sin(psi))
    return np.array([right * s - forward * c, -right * c - forward * s, CAMERA_HEIGHT])
