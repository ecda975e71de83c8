"""One moment of the world as pixels: sky, flat ground, then everything upright from far to near.

Painted larger than asked for and averaged down where the frame is small, so that edges move by parts of a pixel.
"""

import cv2
import numpy as np

from drivesim.world.look import Look
from drivesim.world.road import CAMERA_HEIGHT, LANE, View
from drivesim.world.roadside import Field, Thing, quad, ring
from drivesim.world.shapes import HEAD, TAIL, WINDOW, Mesh
from drivesim.world.sky import Sky
from drivesim.world.traffic import SIGHT, Agent

FOCAL = 0.85  # focal length in frame widths: a horizontal field of view of 61 degrees
HORIZON = 0.45  # the horizon's row in frame heights
DASH, DASH_EVERY = 6.0, 12.0  # metres
_NEAR = 0.6  # metres: nothing nearer is painted
_SHIFT = 4
_MIN_ROWS = 256  # frames with fewer rows are painted larger and averaged down
_LAMP_COLOURS = {TAIL: (255, 36, 30), HEAD: (255, 250, 226), WINDOW: (255, 214, 130)}


class Painter:
    """Paints one seed's world at one size.

    Args:
        size: ``H W`` of the frames.
        edge: metres from the centre line to the end of what is paved.
    """

    def __init__(
        self, seed: int, look: Look, size: tuple[int, int], lanes: int, half: float, edge: float, pavement: bool
    ):
        self.look, self.size = look, size
        self.scale = max(1, -(-_MIN_ROWS // size[0])) if size[0] < _MIN_ROWS else 1
        self.height, self.width = size[0] * self.scale, size[1] * self.scale
        self.focal, self.middle = FOCAL * self.width, self.width / 2
        self.horizon = round(HORIZON * self.height)
        self.line_type = cv2.LINE_AA if self.scale == 1 else cv2.LINE_8
        self.lanes, self.half, self.edge, self.pavement = lanes, half, edge, pavement
        self.sky = Sky(seed, look, self.focal, self.width, self.horizon)
        self.image = np.empty((self.height, self.width, 3), np.uint8)
        self.owner = np.empty(
            (self.height // 2, self.width // 2), np.uint8
        )  # whose silhouette is seen, at half the size
        nearest = CAMERA_HEIGHT * self.focal / (self.height - self.horizon)
        self.first = 0.7 * nearest  # metres ahead where the painted ground begins
        self._along = np.concatenate([np.geomspace(self.first, 160, 40), np.geomspace(180, 690, 12)])
        self._light, self._veil = self._ground_light()
        self._glows: dict[tuple[int, int], np.ndarray] = {}

    def _ground_light(self) -> tuple[np.ndarray, np.ndarray]:
        """What the ground's albedo is multiplied by (255 = 1) and what haze adds; uint8 ``h W 3``, fixed to the camera."""
        rows = np.arange(self.height - self.horizon)[:, None] + 0.5
        forward = CAMERA_HEIGHT * self.focal / rows
        right = (np.arange(self.width) + 0.5 - self.middle) / self.focal * forward
        light = np.full(np.broadcast(right, forward).shape, self.look.ambient * (1.0 if self.look.night else 0.95))
        if self.look.night:
            light = light + headlight(right, forward)
        clear = 1 - self.hidden(forward)
        light = (light * clear)[..., None] * np.array([1.0, 0.98, 0.92] if self.look.night else [1.0, 1.0, 1.0])
        veil = np.broadcast_to((1 - clear)[..., None] * np.asarray(self.look.haze), light.shape)
        return np.clip(light * 255, 0, 255).astype(np.uint8), np.clip(veil, 0, 255).astype(np.uint8)

    def hidden(self, forward: np.ndarray | float) -> np.ndarray:
        """The share of an object's colour that haze takes at ``forward`` metres."""
        return 1 - np.exp(-((np.maximum(forward, 0.0) / self.look.haze_at) ** 1.5))

    def project(self, right: np.ndarray, forward: np.ndarray, up: np.ndarray | float) -> np.ndarray:
        """Camera metres to pixels, ``... 2``."""
        u = self.middle + self.focal * right / forward
        v = self.horizon + self.focal * (CAMERA_HEIGHT - up) / forward
        return np.stack(np.broadcast_arrays(u, v), -1)

    def paint(self, view: View, things: list[Thing], fields: list[Field], agents: list[Agent]):
        """The frame, uint8 ``H W 3``, and for each agent that is in it (agent, box in pixels of the frame, visibility)."""
        self._paint_ground(view, things, fields, agents)
        self.sky.paint(view.heading, self.image[: self.horizon])
        self.owner[:] = 0
        items = [(thing, HOUSE_FADE(thing)) for thing in things] + [(agent, SIGHT) for agent in agents]
        where = (
            view.place(np.array([i.s for i, _ in items]), np.array([i.lateral for i, _ in items]))
            if items
            else ([],) * 3
        )
        order = sorted(zip(where[1], where[0], where[2], items, strict=True), key=lambda entry: -entry[0])
        seen: list[tuple[Agent, np.ndarray, int, int]] = []
        for forward, right, psi, (item, reach) in order:
            if isinstance(item, Agent):
                drawn = self._agent(item, right, forward, psi)
                if drawn is not None and len(seen) < 254:
                    own = self._claim(drawn, len(seen) + 1)
                    seen.append((item, drawn, own, len(seen) + 1))
            else:
                self._thing(item, right, forward, psi, reach)
        frame = self.image
        if self.scale > 1:
            frame = cv2.resize(frame, (self.size[1], self.size[0]), interpolation=cv2.INTER_AREA)
        left = np.bincount(self.owner.ravel(), minlength=256)
        boxes = [(agent, self._box(drawn), left[n] / own) for agent, drawn, own, n in seen if own]
        return frame.copy() if self.scale == 1 else frame, boxes

    # ground

    def _paint_ground(self, view: View, things: list[Thing], fields: list[Field], agents: list[Agent]) -> None:
        look, ground = self.look, self.image[self.horizon :]
        ground[:] = look.grass
        for patch in fields:
            self._patch(view, max(patch.s0, view.s + self.first), patch.s1, patch.l0, patch.l1, patch.colour, 5)
        side = (172, 168, 160) if self.pavement else (150, 134, 104)
        verge = self.edge + (2.6 if self.pavement else 1.1)
        self._strip(view, -verge, verge, side)
        self._strip(view, -self.edge, self.edge, tuple(0.9 * c for c in look.asphalt))
        self._strip(view, -self.half, self.half, look.asphalt)
        for lateral in (-self.half + 0.3, self.half - 0.3):
            self._strip(view, lateral - 0.1, lateral + 0.1, look.line)
        dashed = [lane * LANE for lane in range(-self.lanes + 1, self.lanes)]
        if self.lanes > 1:
            dashed.remove(0.0)
            for lateral in (-0.22, 0.22):
                self._strip(view, lateral - 0.09, lateral + 0.09, look.middle)
        for n in range(int(view.s // DASH_EVERY), int((view.s + 170) // DASH_EVERY) + 1):
            start, end = max(n * DASH_EVERY, view.s + self.first), n * DASH_EVERY + DASH
            for lateral in dashed:
                colour = look.middle if lateral == 0 else look.line
                self._patch(view, start, end, lateral - 0.12, lateral + 0.12, colour, 3)
        self._shadows(view, things, agents)
        light = self._lamplight(view, things) if look.night else self._light
        cv2.multiply(ground, light, dst=ground, scale=1 / 255)
        cv2.add(ground, self._veil, dst=ground)

    def _strip(self, view: View, l0: float, l1: float, colour: tuple) -> None:
        """A band along the road from the camera to the horizon."""
        s = view.s + self._along
        sides = [self.project(*view.place(s, lateral)[:2], 0.0) for lateral in (l0, l1)]
        self._fill(np.concatenate([sides[0], sides[1][::-1]]), colour, convex=False)

    def _patch(self, view: View, s0: float, s1: float, l0: float, l1: float, colour: tuple, n: int) -> None:
        if s1 - s0 < 0.05:
            return
        s = np.linspace(s0, s1, n)
        right, forward, _ = view.place(np.concatenate([s, s[::-1]]), np.repeat([l0, l1], n))
        if forward.min() > _NEAR:
            self._fill(self.project(right, forward, 0.0), colour, convex=n <= 3)

    def _shadows(self, view: View, things: list[Thing], agents: list[Agent]) -> None:
        dark = tuple(0.42 * c for c in self.look.asphalt)
        green = tuple(0.62 * c for c in self.look.grass)
        round_ = [(thing.s, thing.lateral, thing.shadow, green) for thing in things if thing.shadow]
        round_ += [(agent.s, agent.lateral, 0.4, dark) for agent in agents if agent.mesh is None]
        for s, lateral, radius, colour in round_:
            right, forward, _ = view.place(np.array(s), lateral)
            if forward - radius > _NEAR:
                circle = ring(float(right), float(forward), radius, radius)
                self._fill(self.project(circle[:, 0], circle[:, 1], 0.0), colour)
        for agent in agents:
            if agent.mesh is not None:
                at = [float(value) for value in view.place(np.array(agent.s), agent.lateral)]
                corners = near_side(_turned(agent.mesh.ground, *at, agent.along))
                if len(corners):
                    self._fill(self.project(corners[:, 0], corners[:, 1], 0.0), dark)

    def _lamplight(self, view: View, things: list[Thing]) -> np.ndarray:
        pool = np.zeros(self._light.shape, np.uint8)
        for thing in things:
            if thing.lamp is None:
                continue
            right, forward, psi = view.place(np.array(thing.s), thing.lateral + thing.lamp[1])
            for radius, share in ((6.5, 0.14), (5.2, 0.26), (3.8, 0.38), (2.2, 0.48)):
                circle = ring(float(right), float(forward), radius, radius, 20)
                circle = circle[circle[:, 1] > _NEAR]
                if len(circle) > 2:
                    share = share * float(1 - self.hidden(forward))
                    self._fill(
                        self.project(circle[:, 0], circle[:, 1], 0.0), (255 * share, 225 * share, 160 * share), on=pool
                    )
        return cv2.add(self._light, pool)

    # upright

    def lit(self, albedo: np.ndarray, right: float, forward: float, glow: np.ndarray | None = None) -> np.ndarray:
        """Colours ``F 3`` of albedo ``F 3`` at a place; ``glow`` (``F`` bool) keeps its own light."""
        light = self.look.ambient
        if self.look.night:
            light = light + 0.75 * float(headlight(right, forward))
        colour = albedo * light
        if glow is not None:
            colour = np.where(glow[:, None], albedo, colour)
        veil = float(self.hidden(forward))
        return np.clip(colour * (1 - veil) + np.asarray(self.look.haze) * veil, 0, 255)

    def _agent(self, agent: Agent, right: float, forward: float, psi: float) -> np.ndarray | None:
        """Paints an agent; gives the corners that were painted, in pixels, or None where it is out of sight."""
        if agent.mesh is not None:
            return self._mesh(agent.mesh, right, forward, psi, agent.along, agent.lit)
        if forward < _NEAR:
            return None
        return self._parts(walker_parts(agent), right, forward)

    def _thing(self, thing: Thing, right: float, forward: float, psi: float, reach: float) -> None:
        drawn = None
        if thing.mesh is not None:
            drawn = self._mesh(thing.mesh, right, forward, psi, thing.lateral > 0, True)
        elif forward > _NEAR:
            drawn = self._parts(thing.parts, right, forward)
        if drawn is None:
            return
        if forward < SIGHT:
            for points in (
                [drawn] if thing.mesh is not None else [_corners(p, self, right, forward) for p, _, _ in thing.parts]
            ):
                self._fill(_hull(points) / 2, (255,), on=self.owner)
        if thing.lamp is not None and self.look.night:
            at = self.project(np.array(right + thing.lamp[1]), np.array(forward), thing.lamp[0])
            self._glow(at, 0.9 * self.focal / forward, (255, 214, 140))

    def _parts(self, parts: tuple, right: float, forward: float) -> np.ndarray | None:
        corners = [_corners(p, self, right, forward) for p, _, _ in parts]
        everything = np.concatenate(corners)
        if not self._inside(everything):
            return None
        albedo, glow = np.array([c for _, c, _ in parts], float), np.array([g for _, _, g in parts])
        colours = self.lit(albedo, right, forward, glow if self.look.night else None).tolist()
        for points, colour in zip(corners, colours, strict=True):
            self._fill(points, colour)
        return everything

    def _mesh(
        self, mesh: Mesh, right: float, forward: float, psi: float, along: bool, lamps: bool
    ) -> np.ndarray | None:
        points = _turned(mesh.points, right, forward, psi, along)
        if points[:, 1].max() < _NEAR:
            return None
        whole = points[:, 1].min() > _NEAR
        pixels = self.project(points[:, 0], np.maximum(points[:, 1], _NEAR), points[:, 2])
        if whole and not self._inside(pixels):
            return None
        eye = _local_eye(right, forward, psi, along)
        facing = ((eye - mesh.anchors) * mesh.normals).sum(1) > 0
        night = self.look.night and lamps
        colours = self.lit(mesh.colours, right, forward).tolist()
        drawn = []
        for _, _, first, end in sorted(mesh.groups, key=lambda g: (g[0], -np.linalg.norm(g[1] - eye))):
            for n in np.flatnonzero(facing[first:end]) + first:
                lamp = int(mesh.lamps[n])
                colour = _LAMP_COLOURS[lamp] if night and lamp else colours[n]
                corners = pixels[mesh.faces[n]] if whole else self._clipped(points[mesh.faces[n]])
                if len(corners) > 2:
                    self._fill(corners, colour)
                    drawn.append(corners)
                    if night and lamp in (TAIL, HEAD):
                        size = (0.42 if lamp == TAIL else 0.95) * self.focal / max(forward, 3.0)
                        self._glow(corners.mean(0), size, _LAMP_COLOURS[lamp])
        everything = np.concatenate(drawn) if drawn else np.zeros((0, 2))
        return everything if drawn and self._inside(everything) else None

    def _clipped(self, points: np.ndarray) -> np.ndarray:
        corners = near_side(points)
        return self.project(corners[:, 0], corners[:, 1], corners[:, 2]) if len(corners) else corners[:, :2]

    # pixels

    def _fill(
        self, points: np.ndarray, colour: tuple | list, convex: bool = True, on: np.ndarray | None = None
    ) -> None:
        """Fills a polygon given in pixels; pixel centres are at whole numbers and a half."""
        target = self.image if on is None else on
        offset = self.horizon if on is not None and on.ndim == 3 else 0
        fixed = np.rint((points - (0.5, 0.5 + offset)) * (1 << _SHIFT)).clip(-(1 << 20), 1 << 20).astype(np.int32)
        if convex:
            cv2.fillConvexPoly(target, fixed, colour, self.line_type if on is None else cv2.LINE_8, _SHIFT)
        else:
            cv2.fillPoly(target, [fixed], colour, self.line_type if on is None else cv2.LINE_8, _SHIFT)

    def _inside(self, points: np.ndarray) -> bool:
        (x0, y0), (x1, y1) = points.min(0), points.max(0)
        return bool(x1 > 0 and x0 < self.width and y1 > 0 and y0 < self.height)

    def _claim(self, points: np.ndarray, n: int) -> int:
        """Writes ``n`` over the silhouette; gives its area in the frame, in cells of ``owner``."""
        hull = _hull(points) / 2
        self._fill(hull, (n,), on=self.owner)
        (x0, y0), (x1, y1) = np.maximum(hull.min(0).astype(int) - 1, 0), hull.max(0).astype(int) + 2
        return int(np.count_nonzero(self.owner[y0:y1, x0:x1] == n))

    def _box(self, points: np.ndarray) -> np.ndarray:
        """``x0 y0 x1 y1`` as fractions of the frame, clipped to it."""
        low, high = points.min(0), points.max(0)
        return np.clip(np.concatenate([low, high]) / np.array([self.width, self.height] * 2), 0.0, 1.0)

    def _glow(self, centre: np.ndarray, radius: float, colour: tuple) -> None:
        """Adds a soft light."""
        r = int(np.clip(round(radius), 2, self.height // 5))
        key = (r, hash(colour))
        if key not in self._glows:
            grid = np.arange(-r, r + 1) / r
            disc = np.exp(-4.0 * (grid[:, None] ** 2 + grid**2)) - np.exp(-4.0)
            self._glows[key] = np.clip(disc, 0, 1)[..., None] * np.asarray(colour) * 0.8
            self._glows[key] = self._glows[key].astype(np.uint8)
        x, y = int(centre[0]) - r, int(centre[1]) - r
        x0, y0, x1, y1 = max(x, 0), max(y, 0), min(x + 2 * r + 1, self.width), min(y + 2 * r + 1, self.height)
        if x0 < x1 and y0 < y1:
            part = self.image[y0:y1, x0:x1]
            self.image[y0:y1, x0:x1] = cv2.add(part, self._glows[key][y0 - y : y1 - y, x0 - x : x1 - x])


def HOUSE_FADE(thing: Thing) -> float:
    return thing.reach


def headlight(right: np.ndarray | float, forward: np.ndarray | float) -> np.ndarray:
    """The light of the camera's own headlamps at a place before it, 0..1."""
    forward = np.maximum(forward, 0.1)
    across = np.exp(-((np.asarray(right) / (1.5 + 0.26 * forward)) ** 2))
    return 0.85 * across * (1 - np.exp(-((forward / 4.5) ** 2))) * np.exp(-forward / 30.0)


def near_side(points: np.ndarray) -> np.ndarray:
    """The part of a polygon (``N 3``: right, forward, up) that is at least ``_NEAR`` metres before the camera."""
    kept = []
    for a, b in zip(points, np.roll(points, -1, axis=0), strict=True):
        if a[1] >= _NEAR:
            kept.append(a)
        if (a[1] >= _NEAR) != (b[1] >= _NEAR):
            kept.append(a + (b - a) * (_NEAR - a[1]) / (b[1] - a[1]))
    return np.array(kept) if kept else np.zeros((0, 3))


def walker_parts(agent: Agent) -> tuple:
    """A pedestrian as flat parts, legs in step."""
    h, swing = agent.height, 0.22 * np.sin(agent.stride)
    coat, trousers = agent.clothes
    legs = [
        np.array([(x - 0.09, 0.5 * h), (x + 0.09, 0.5 * h), (x + d + 0.08, 0), (x + d - 0.08, 0)])
        for x, d in ((-0.1, swing), (0.1, -swing))
    ]
    body = np.array([(-0.22, 0.47 * h), (0.22, 0.47 * h), (0.27, 0.83 * h), (-0.27, 0.83 * h)])
    head, hair = ring(0, 0.91 * h, 0.13, 0.09 * h, 10), quad(-0.1, 0.1, 0.945 * h, h)
    return (
        (legs[0], trousers, False),
        (legs[1], trousers, False),
        (body, coat, False),
        (head, (224, 176, 142), False),
        (hair, (70, 48, 36), False),
    )


def _corners(part: np.ndarray, painter: Painter, right: float, forward: float) -> np.ndarray:
    return painter.project(right + part[:, 0], np.full(len(part), forward), part[:, 1])


def _turned(points: np.ndarray, right: float, forward: float, psi: float, along: bool) -> np.ndarray:
    """Local ``N 3`` (x ahead, y right, z up) to camera ``N 3`` (right, forward, up)."""
    c, s = np.cos(psi), np.sin(psi)
    if not along:
        c, s = -c, -s
    x, y = points[:, 0], points[:, 1]
    return np.stack([right - x * s + y * c, forward + x * c + y * s, points[:, 2]], 1)


def _local_eye(right: float, forward: float, psi: float, along: bool) -> np.ndarray:
    """The camera in a mesh's local axes."""
    c, s = np.cos(psi), np.sin(psi)
    if not along:
        c, s = -c, -s
    return np.array([right * s - forward * c, -right * c - forward * s, CAMERA_HEIGHT])


def _hull(points: np.ndarray) -> np.ndarray:
    return cv2.convexHull(points.astype(np.float32))[:, 0].astype(np.float64)
