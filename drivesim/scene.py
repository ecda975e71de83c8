"""What crosses from room to room: clips, boxes, labels, levels, conditions. Shapes are checked here, once, at the door.

``B`` clips, ``T`` frames, ``C`` channels, ``H W`` pixels, ``h w`` latent cells, ``N`` boxes, ``L`` tokens.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from fractions import Fraction
from typing import Annotated, Literal, get_args

import numpy as np
import torch
from annotated_types import Ge
from einops import rearrange
from torch import Tensor

Class = Literal["car", "truck", "bus", "trailer", "motorcycle", "bicycle", "rider", "pedestrian", "other"]
CLASSES: tuple[str, ...] = get_args(Class)
CARS = ("car", "truck", "bus", "trailer")  # the classes that the label "number of cars" counts
KEYFRAME_FPS = Fraction(15, 8)
VIDEO_FPS = Fraction(30)


@dataclass(frozen=True)
class Labels:
    """What a clip is called: the paper's two labels [E.1], or words. ``None`` is unknown and trains as dropped.

    Args:
        night: true at night, false by day.
        cars: how many cars, trucks, buses and trailers a frame shows.
        prompt: what it shows, for models that are told words instead of labels.
    """

    night: bool | None = None
    cars: Annotated[int, Ge(0)] | None = None
    prompt: str | None = None


@dataclass(frozen=True, eq=False)
class Boxes:
    """The boxes of one clip, a row per (time, track).

    Args:
        time: ``N`` exact seconds.
        track: ``N`` ids, persistent over the clip.
        cls: ``N`` words of ``CLASSES``.
        box: ``N 4`` float, ``x0 y0 x1 y1`` as fractions of width and height.
        visibility: ``N`` float in [0, 1]; NaN is unknown.
        word: ``N`` names of the class in the source; empty where there is none, which stands for ``cls``.
        ignore: ``N`` bool, true for a region that says only that it was not labelled; None is none.
    """

    time: tuple[Fraction, ...]
    track: np.ndarray
    cls: tuple[str, ...]
    box: np.ndarray
    visibility: np.ndarray
    word: tuple[str, ...] = ()
    ignore: np.ndarray | None = None

    def __post_init__(self) -> None:
        n = len(self.time)
        if self.box.shape != (n, 4) or self.track.shape != (n,) or self.visibility.shape != (n,) or len(self.cls) != n:
            raise ValueError(
                f"boxes disagree: {n} times, {self.track.shape} tracks, {len(self.cls)} classes, {self.box.shape}"
            )
        if len(self.word) not in (0, n) or (self.ignore is not None and self.ignore.shape != (n,)):
            raise ValueError(f"boxes disagree: {n} times, {len(self.word)} words, ignore {self.ignore}")

    @property
    def words(self) -> tuple[str, ...]:
        """``word``, or ``cls`` where there are none."""
        return self.word or self.cls

    @property
    def ignored(self) -> np.ndarray:
        """``N`` bool."""
        return np.zeros(len(self), bool) if self.ignore is None else self.ignore

    def __len__(self) -> int:
        return len(self.time)

    def at(self, time: Fraction) -> "Boxes":
        """Those of exactly that moment."""
        return self.rows([row for row, each in enumerate(self.time) if each == time])

    def rows(self, which: Sequence[int]) -> "Boxes":
        """The rows of these numbers, in their order."""
        places = np.asarray(which, np.int64)
        return Boxes(
            time=tuple(self.time[row] for row in which),
            track=self.track[places],
            cls=tuple(self.cls[row] for row in which),
            box=self.box[places],
            visibility=self.visibility[places],
            word=tuple(self.words[row] for row in which),
            ignore=self.ignored[places],
        )


def joined(*parts: Boxes) -> Boxes:
    """The rows of all, one after another; at least one part is needed."""
    return Boxes(
        time=tuple(time for part in parts for time in part.time),
        track=np.concatenate([part.track for part in parts]),
        cls=tuple(cls for part in parts for cls in part.cls),
        box=np.concatenate([part.box for part in parts]),
        visibility=np.concatenate([part.visibility for part in parts]),
        word=tuple(word for part in parts for word in part.words),
        ignore=np.concatenate([part.ignored for part in parts]),
    )


EMPTY, IGNORED = -1, -2  # in the place of a class: no box here, and a region that was not labelled
MOST_BOXES = 64  # of a frame; where there are more, the smallest are left out
BATCHED = ("boxes", "box_class", "box_track", "box_known")  # the fields of ``FrameBoxes`` as batches call them


@dataclass(frozen=True, eq=False)
class FrameBoxes:
    """The boxes of every frame of a batch of windows, as networks are told them.

    Args:
        box: ``B T N 4`` float, ``x0 y0 x1 y1`` as fractions of width and height.
        cls: ``B T N`` long, a place in ``CLASSES``, ``EMPTY`` or ``IGNORED``.
        track: ``B T N`` long, persistent over a video.
        known: ``B T`` bool; False where nothing is known of the frame, which differs from "no box in it".
    """

    box: Tensor
    cls: Tensor
    track: Tensor
    known: Tensor

    def __post_init__(self) -> None:
        shape, others = tuple(self.cls.shape), (self.box.shape, self.track.shape, self.known.shape)
        if len(shape) != 3 or others != ((*shape, 4), shape, shape[:2]):
            raise ValueError(
                f"boxes of frames are B T N, not {shape} classes, {', '.join(map(str, map(tuple, others)))}"
            )

    @classmethod
    def of(cls, batch: Mapping[str, Tensor]) -> "FrameBoxes | None":
        """Those of a batch, None where it holds none; the places that no frame of it needs are left out."""
        if "boxes" not in batch:
            return None
        box, kind, track, known = (batch[name] for name in BATCHED)
        used = max(1, int((kind != EMPTY).sum(-1).amax()))  # boxes come before empty places
        return cls(box[..., :used, :], kind[..., :used], track[..., :used], known)

    def map(self, change: Callable[[Tensor], Tensor]) -> "FrameBoxes":
        """``change`` applied to every tensor."""
        return FrameBoxes(change(self.box), change(self.cls), change(self.track), change(self.known))

    def where(self, kept: Tensor) -> "FrameBoxes":
        """Those of the samples that ``kept`` (``B`` bool) names; nothing is known of the others."""
        return replace(self, known=self.known & kept.to(self.known.device)[:, None])


def frame_boxes(boxes: Boxes, times: Sequence[Fraction], most: int | None = None) -> FrameBoxes:
    """``boxes`` at exactly ``times``, all of which are known, with B = 1.

    Args:
        most: N; None is as many as the fullest frame has, at least 1. Where a frame has more, its largest stay.
    """
    places: dict[Fraction, list[int]] = {time: [] for time in times}
    for row, time in enumerate(boxes.time):
        if time in places:
            places[time].append(row)
    area = (boxes.box[:, 2] - boxes.box[:, 0]) * (boxes.box[:, 3] - boxes.box[:, 1])
    n = max(1, max(map(len, places.values()), default=0)) if most is None else most
    box, cls = np.zeros((1, len(times), n, 4), np.float32), np.full((1, len(times), n), EMPTY)
    track, ignored = np.zeros((1, len(times), n), np.int64), boxes.ignored
    for t, time in enumerate(times):
        rows = sorted(places[time], key=lambda row: -area[row])[:n]
        box[0, t, : len(rows)], track[0, t, : len(rows)] = boxes.box[rows], boxes.track[rows]
        cls[0, t, : len(rows)] = [IGNORED if ignored[row] else CLASSES.index(boxes.cls[row]) for row in rows]
    known = torch.ones(1, len(times), dtype=torch.bool)
    return FrameBoxes(torch.from_numpy(box), torch.from_numpy(cls).long(), torch.from_numpy(track), known)


@dataclass(frozen=True, eq=False)
class Clip:
    """Consecutive frames of one video.

    Args:
        frames: uint8 ``T H W 3``, RGB.
        fps: exact frame rate of ``frames``.
        start: seconds of the first frame within its source.
        clip_id: SHA-256 of the source's bytes, or a name for what has no file.
    """

    frames: np.ndarray
    fps: Fraction
    start: Fraction = Fraction(0)
    clip_id: str = ""
    labels: Labels = Labels()
    boxes: Boxes | None = None

    def __post_init__(self) -> None:
        if self.frames.dtype != np.uint8 or self.frames.ndim != 4 or self.frames.shape[-1] != 3:
            raise ValueError(f"a clip is uint8 T H W 3, not {self.frames.dtype} {self.frames.shape}")

    def __repr__(self) -> str:
        t, h, w, _ = self.frames.shape
        return f"Clip({self.clip_id[:8]} {t} frames {h}x{w} at {self.fps} fps from {self.start} s)"


def to_model(frames: np.ndarray | Tensor) -> Tensor:
    """uint8 ``... T H W 3`` at the door to float ``... T 3 H W`` in [-1, 1] inside."""
    return rearrange(torch.as_tensor(frames), "... h w c -> ... c h w").float() / 127.5 - 1


def to_pixels(video: Tensor) -> np.ndarray:
    """float ``... T 3 H W`` in [-1, 1] inside to uint8 ``... T H W 3`` at the door; out of range is clipped."""
    levels = ((video.detach().float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    return np.ascontiguousarray(rearrange(levels, "... c h w -> ... h w c").cpu().numpy())


@dataclass(frozen=True, eq=False)
class Level:
    """The noise level of every frame.

    Args:
        sigma: ``B T`` float, variance-exploding: ``x = x0 + sigma n``.
        index: ``B T`` long index into the discrete schedule, or None for a continuous one.
    """

    sigma: Tensor
    index: Tensor | None = None

    def __post_init__(self) -> None:
        if self.sigma.ndim != 2 or (self.index is not None and self.index.shape != self.sigma.shape):
            raise ValueError(f"a level is B T, not {tuple(self.sigma.shape)}")

    def of(self, x: Tensor) -> Tensor:
        """``sigma`` as ``B T 1 1 1``, ready to be multiplied with ``x``."""
        return self.sigma.to(x)[..., None, None, None]


@dataclass(frozen=True, eq=False)
class Condition:
    """All that the denoiser is told. Each field None = unknown or dropped, which differs from "none here".

    Args:
        tokens: ``B L D`` for the cross-attention (labels, text, boxes), ``mask`` ``B L`` bool with True = attend.
        temporal_tokens: ``B L D`` for that of the temporal layers; None: they see ``tokens``, too.
        planes: ``B T P h w``, rasterised boxes. ``box_tokens`` ``B T L D``: boxes as tokens, frame by frame, and
            ``box_mask`` ``B T L``.
        context: ``B T C h w`` latents, ``context_mask`` ``B T`` (1 = given), ``context_level`` ``B T`` (noise added to
            them).
        given: ``B`` long, how many frames are given.
        low: ``B T C h w``, low-resolution input, and ``low_level`` ``B``.
        pooled: ``B D``, added to the time embedding.
        fps: ``B``, frames per second of what is asked for.
    """

    tokens: Tensor | None = None
    mask: Tensor | None = None
    temporal_tokens: Tensor | None = None
    planes: Tensor | None = None
    box_tokens: Tensor | None = None
    box_mask: Tensor | None = None
    context: Tensor | None = None
    context_mask: Tensor | None = None
    context_level: Tensor | None = None
    given: Tensor | None = None
    low: Tensor | None = None
    low_level: Tensor | None = None
    pooled: Tensor | None = None
    fps: Tensor | None = None

    def __post_init__(self) -> None:
        if self.context is not None and (
            self.context_mask is None or self.context_mask.shape != self.context.shape[:2]
        ):
            raise ValueError("context B T C h w needs a context_mask B T")

    def map(self, change: Callable[[Tensor], Tensor]) -> "Condition":
        """``change`` applied to every field that is known."""
        known = {f.name: getattr(self, f.name) for f in fields(self)}
        return Condition(**{name: value if value is None else change(value) for name, value in known.items()})

    def without_context(self) -> "Condition":
        return replace(self, context=None, context_mask=None, context_level=None, given=None)

    def without_labels(self) -> "Condition":
        return replace(self, tokens=None, mask=None, temporal_tokens=None)

    def without_boxes(self) -> "Condition":
        return replace(self, planes=None, box_tokens=None, box_mask=None)
