"""What is compared with what: the protocols under which FVD is published, as named presets.

Scores of two protocols do not compare: the same clips differ by up to 30 % between them (docs/evaluation.md).
"""

from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Literal

from drivesim.errors import Mistake, nearest
from drivesim.metrics import i3d
from drivesim.metrics.builtin import NAME as BUILTIN
from drivesim.scene import KEYFRAME_FPS

STANDARD = 2048  # clips a side, the custom since StyleGAN-V


@dataclass(frozen=True)
class Protocol:
    """How clips are taken, what looks at them, and how the distance is formed.

    Args:
        extractor: the kind of network: ``i3d``, ``videomae`` or ``builtin-v1``.
        frames: of a clip, taken ``every`` so many frames of the video.
        fps: rate at which video is taken; None = its own, which must then be the same on both sides.
        resize: a name of ``resize.RESIZES``; empty = the extractor's own.
        epsilon: of I3D's batch norms.
        ddof: covariance over N - ``ddof``.
        sums: precision of mean, covariance and distance.
        clips: most clips of a side, spread over its videos; None = all.
    """

    name: str
    extractor: Literal["i3d", "videomae", "builtin-v1"]
    frames: int = 16
    every: int = 1
    fps: Fraction | None = None
    resize: str = "bilinear"
    epsilon: float = i3d.EPSILON
    ddof: int = 1
    sums: Literal["float64", "float32"] = "float64"
    clips: int | None = STANDARD

    @property
    def span(self) -> int:
        """Frames of the video from the first of a clip to the first of the next."""
        return self.frames * self.every

    def at(self, fps: Fraction | None) -> "Protocol":
        return self if fps is None else replace(self, fps=Fraction(fps))


PROTOCOLS: dict[str, Protocol] = {
    protocol.name: protocol
    for protocol in (
        Protocol(BUILTIN, "builtin-v1", fps=KEYFRAME_FPS, resize="", clips=None),
        # [Video LDM G]: code of TATS with i3d_torchscript.pt; whether at 10 or 30 fps is open: say it with --fps
        Protocol("paper", "i3d"),
        # StyleGAN-V's metrics (long-video-gan's are the same): fvd2048_16f, fvd2048_128f, fvd2048_128f_subsample8f
        Protocol("styleganv", "i3d", ddof=0),
        Protocol("styleganv-128", "i3d", frames=128, ddof=0),
        Protocol("styleganv-128-sub8", "i3d", every=8, ddof=0),
        # the definition: frechet_video_distance.py with TensorFlow 1's resize
        Protocol("tf1", "i3d", resize="tf1"),
        Protocol("mcvd", "i3d", resize="short-side-crop"),
        Protocol("videogpt", "i3d", resize="short-side-crop", epsilon=1e-5, sums="float32"),
        # cd-fvd 0.1.1, with its I3D and with its default
        Protocol("cdfvd-i3d", "i3d", resize="cdfvd", epsilon=1e-5, ddof=0),
        Protocol("cdfvd", "videomae", resize="cdfvd", ddof=0),
    )
}


def named(name: str, fps: Fraction | None = None, clips: int | None = None) -> Protocol:
    """The preset ``name``; ``fps`` and ``clips`` in place of its own, which the receipt then states.

    Raises:
        Mistake: no such preset, or a rate or count that is none.
    """
    if name not in PROTOCOLS:
        raise Mistake(f"unknown protocol '{name}'", where="--protocol", mend=nearest(name, PROTOCOLS))
    if fps is not None and fps <= 0:
        raise Mistake(f"{fps} frames a second is not a rate", where="--fps")
    protocol = PROTOCOLS[name].at(fps)
    return protocol if clips is None else replace(protocol, clips=clips)
