"""The stages of a rollout: iterators of chunks to iterators of chunks, pulled piece by piece.

    keyframes -> interpolate -> interpolate -> decode -> fill -> upsample -> write

So memory is flat, and the first segment can be watched while the last are made. A window of key-frames passes as
several chunks; its last one carries ``state``: what the stages must remember to go on behind it. Latents between stages
are float32, unscaled, and never quantised. The order of frames is the output's, and where a chunk begins is told by its
place in the stream: ``plan`` alone counts.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import chain
from pathlib import Path

import torch
from torch import Tensor

from drivesim.data import video
from drivesim.rollout.plan import Pieces, Plan, Window
from drivesim.rollout.settings import FillMode
from drivesim.scene import to_pixels

State = dict[str, Tensor]


@dataclass(frozen=True, eq=False)
class Chunk:
    """Frames that follow those of the chunk before.

    Args:
        frames: latents ``n C h w``, or pixels ``n 3 H W`` in about [-1, 1]; n may be 0.
        state: on the last chunk of ``window`` what must be remembered behind it, else None.
        last: nothing comes behind this chunk.
    """

    window: Window
    frames: Tensor
    state: State | None = None
    last: bool = False


@dataclass(frozen=True, eq=False)
class Segment:
    """What one window made complete: the output frames ``[first, last)``.

    Args:
        file: a video that plays alone; None where no frame was complete.
    """

    window: Window
    file: Path | None
    first: int
    last: int
    state: State


def keyframes(
    plan: Plan, predict: Callable[[Window, Tensor], Tensor], context: Tensor, begin: int = 0
) -> Iterator[Chunk]:
    """Chains prediction windows by their latents, from window ``begin`` on.

    Args:
        predict: the key-frames ``T C h w`` of a window, its given ones first and unchanged.
        context: ``g C h w``, the given key-frames of window ``begin``.
    """
    for window in plan.windows(begin):
        made = predict(window, context[-window.given :])
        kept = made[: window.last - window.start]
        context = kept[-plan.overlap :].clone()  # a copy: the window itself can be freed
        yield Chunk(window, kept[window.first - window.start :], {"latents": context}, window.n == plan.count - 1)


def interpolate(
    chunks: Iterable[Chunk],
    between: Callable[[int, Tensor], Tensor],
    place: int = 0,
    last: Tensor | None = None,
    batch: int = 1,
) -> Iterator[Chunk]:
    """Puts three frames into every gap; what stood there stays as it is, bit for bit.

    Args:
        between: ``(place, ends)``: the three frames in each gap, ``p 3 C h w`` from ``p 2 C h w``; the first gap begins
            at frame ``place`` of the stream that comes in.
        last: the frame before the first chunk, ``C h w``, and ``place`` its place; None where the stream begins.
        batch: gaps at a time.
    """
    for chunk in chunks:
        frames = chunk.frames
        if last is None and len(frames):
            yield Chunk(chunk.window, frames[:1])
            last, frames = frames[0], frames[1:]
        if last is not None and len(frames):
            for gaps in torch.stack([torch.cat([last[None], frames[:-1]]), frames], dim=1).split(batch):
                yield Chunk(chunk.window, torch.cat([between(place, gaps), gaps[:, 1:]], dim=1).flatten(0, 1))
                place += len(gaps)
            last = frames[-1].clone()
        yield Chunk(chunk.window, chunk.frames[:0], chunk.state, chunk.last)


def decode(chunks: Iterable[Chunk], decoder: Callable[[Tensor], Tensor], batch: int = 4) -> Iterator[Chunk]:
    """Every frame by itself, ``batch`` at a time. The last batch is filled up: pixels may depend on its size."""
    for chunk in chunks:
        parts = chunk.frames.split(batch)
        for n, part in enumerate(parts):
            with torch.inference_mode():  # left before the yield: the caller's own mode is not ours to change
                frames = decoder(_padded(part, batch))[: len(part)].float() if len(part) else part
            yield replace(chunk, frames=frames) if n == len(parts) - 1 else Chunk(chunk.window, frames)


def decode_pieces(
    chunks: Iterable[Chunk], decoder: Callable[[Tensor], Tensor], pieces: Pieces, state: State | None = None
) -> Iterator[Chunk]:
    """Pieces of neighbouring frames, each faded linearly into the next where they overlap.

    Args:
        decoder: ``1 T C h w`` to ``1 T 3 H W``, always with T = ``pieces.length``.
        state: what waited behind the window before: latents not yet decoded, and the end of the last piece.
    """

    def decoded(_: int, latents: Tensor) -> Tensor:
        with torch.inference_mode():
            return decoder(latents[None])[0].float()

    return _in_pieces(chunks, decoded, pieces, ("decode.latents", "decode.pixels"), state)


def _in_pieces(
    chunks: Iterable[Chunk],
    make: Callable[[int, Tensor], Tensor],
    pieces: Pieces,
    names: tuple[str, str],
    state: State | None,
    place: int = 0,
) -> Iterator[Chunk]:
    """
    Args:
        make: ``T ...`` to ``T 3 H W``, T = ``pieces.length``, of the piece whose first frame has that number.
        names: in the state, of the frames that wait and of the end of the last piece, which fades into the next.
        place: of the first frame that waits, or else comes in.
    """
    waiting, tail = ((state or {}).get(name) for name in names)
    for chunk in chunks:
        waiting = _joined(waiting, chunk.frames)
        while len(waiting) >= pieces.length or (chunk.last and len(waiting) > (0 if tail is None else pieces.overlap)):
            pixels = make(place, _padded(waiting[: pieces.length], pieces.length))[: len(waiting)]
            if tail is not None:
                pixels = torch.cat([_faded(tail, pixels[: len(tail)]), pixels[len(tail) :]])
            ends = chunk.last and len(waiting) <= pieces.length
            done = len(pixels) if ends else pieces.stride
            tail, waiting, place = pixels[done:].clone(), waiting[done:].clone(), place + done
            yield Chunk(chunk.window, pixels[:done])
        if chunk.last and tail is not None and len(tail):  # no piece follows that it could fade into
            yield Chunk(chunk.window, tail)
        yield _passed(chunk, dict(zip(names, (waiting, tail), strict=True)))


def fill(chunks: Iterable[Chunk], factor: int, mode: FillMode = "blend", last: Tensor | None = None) -> Iterator[Chunk]:
    """Fills the ``factor - 1`` frames between those that models make, in pixel space, where no model does.

    ``blend`` goes linearly from one frame to the next, ``repeat`` holds the former.

    Args:
        last: ``3 H W``, the frame before the first chunk; None where the output starts with it.
    """
    for chunk in chunks:
        for frame in chunk.frames:
            frames = [frame]
            if last is not None:
                shares = [step / factor for step in range(1, factor)]
                frames = [*(last if mode == "repeat" else torch.lerp(last, frame, share) for share in shares), frame]
            last = frame.clone()  # a copy: the chunk itself can be freed
            yield Chunk(chunk.window, torch.stack(frames))
        yield _passed(chunk, {"fill.pixels": last})


def upsample(
    chunks: Iterable[Chunk],
    upsampler: Callable[[int, Tensor, Tensor], Tensor],
    pieces: Pieces,
    place: int = 0,
    state: State | None = None,
    known: Tensor | None = None,
) -> Iterator[Chunk]:
    """Windows of neighbouring frames, each faded linearly into the next where they overlap: both have the same noise.

    Args:
        upsampler: ``(place, low, known)``: ``T 3 H W`` from ``T 3 h w`` that begin at frame ``place`` of the stream,
            and the first frames ``g 3 H W``, which come out unchanged.
        place: of the first frame that waits, or else comes in.
        state: what waited behind the window before: low frames, and the end of the last window.
        known: ``g 3 H W``, the real frames that the output begins with.
    """

    def upsampled(place: int, low: Tensor) -> Tensor:
        return upsampler(place, low, low.new_zeros(0, 3, 1, 1) if place or known is None else known)

    return _in_pieces(chunks, upsampled, pieces, ("upsample.low", "upsample.pixels"), state, place)


def opened(chunks: Iterable[Chunk], real: Tensor | None) -> Iterator[Chunk]:
    """The same with ``real``, 1 3 H W, in place of the first frame."""
    for chunk in chunks:
        if real is not None and len(chunk.frames):
            chunk, real = replace(chunk, frames=torch.cat([real.to(chunk.frames), chunk.frames[1:]])), None
        yield chunk


def write(
    chunks: Iterable[Chunk],
    file: Callable[[int], Path],
    size: tuple[int, int],
    fps: Fraction,
    first: int = 0,
    mark: str = "",
) -> Iterator[Segment]:
    """A video file per window, at ``file(n)``, each with an encoder of its own; a file is there when it is whole.

    Args:
        first: the output frame that comes first.
        mark: goes into the metadata of each file.
    """
    chunks = iter(chunks)
    for head in chunks:
        segment = _segment(chain([head], chunks), file(head.window.n), size, fps, first, mark)
        yield segment
        first = segment.last


def _segment(
    chunks: Iterable[Chunk], file: Path, size: tuple[int, int], fps: Fraction, first: int, mark: str
) -> Segment:
    writer, last = None, first
    with ExitStack() as open_file:
        for chunk in chunks:
            if len(chunk.frames):
                writer = writer or open_file.enter_context(video.Writer(file, size, fps, comment=mark))
                for part in chunk.frames.split(16):
                    writer.write(to_pixels(part))
                last += len(chunk.frames)
            if chunk.state is not None:
                window, state = chunk.window, chunk.state
                break
        else:
            raise ValueError(f"the window of {file} does not end")
    return Segment(window, file if writer else None, first, last, state)


def _passed(chunk: Chunk, kept: dict[str, Tensor | None]) -> Chunk:
    """The end of what a stage made of ``chunk``: no frame more, and its own memory beside that of the stages before."""
    state = chunk.state
    if state is not None:
        state = state | {name: tensor for name, tensor in kept.items() if tensor is not None}
    return Chunk(chunk.window, chunk.frames[:0], state, chunk.last)


def _padded(part: Tensor, length: int) -> Tensor:
    """``part`` cut to ``length``, or filled up with its last frame."""
    part = part[:length]
    return torch.cat([part, part[-1:].expand(length - len(part), *part.shape[1:])])


def _joined(waiting: Tensor | None, frames: Tensor) -> Tensor:
    if waiting is None or not len(waiting):
        return frames
    return torch.cat([waiting, frames.to(waiting)]) if len(frames) else waiting


def _faded(tail: Tensor, pixels: Tensor) -> Tensor:
    share = torch.arange(1, len(tail) + 1, device=tail.device) / (len(tail) + 1)
    return torch.lerp(tail, pixels, share[:, None, None, None].to(tail))
