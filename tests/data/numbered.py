"""Video whose frames carry their number, eight black or white columns as bits, to be read back after any codec."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from drivesim.data import video

SIZE = (64, 128)


def picture(number: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    """uint8 ``H W 3``: column ``b`` is white where bit ``b`` of ``number`` is set."""
    bits = (number >> np.arange(8)) & 1
    row = np.repeat(bits * 255, size[1] // 8).astype(np.uint8)
    row = np.pad(row, (0, size[1] % 8), "edge")
    return np.broadcast_to(row[None, :, None], (*size, 3)).copy()


def numbers(frames: np.ndarray) -> list[int]:
    """What ``picture`` was given, for each frame of ``T H W 3``."""
    width = frames.shape[2] // 8
    middle = frames[:, frames.shape[1] // 4 : frames.shape[1] * 3 // 4]
    columns = [
        middle[:, :, b * width + width // 4 : (b + 1) * width - width // 4].mean(axis=(1, 2, 3)) for b in range(8)
    ]
    return [int(sum(1 << b for b in range(8) if columns[b][n] > 127)) for n in range(len(frames))]


def write(path: Path, count: int, fps: Fraction, size: tuple[int, int] = SIZE, first: int = 0) -> Path:
    with video.Writer(path, size, fps) as writer:
        writer.write(np.stack([picture(first + n, size) for n in range(count)]))
    return path


def write_uneven(path: Path, milliseconds: list[int], **codec: int) -> Path:
    """A video with these time stamps; Matroska and mpegts by the ending."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=30, options={"g": "10", **{k: str(v) for k, v in codec.items()}})
        stream.height, stream.width = SIZE
        stream.pix_fmt = "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        for n, stamp in enumerate(milliseconds):
            frame = av.VideoFrame.from_ndarray(picture(n), format="rgb24")
            frame.pts, frame.time_base = stamp, Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path
