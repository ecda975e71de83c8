"""What ``evaluate`` measures with: how it is asked to, and the networks that follow from it."""

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Literal

import torch

from drivesim.errors import Mistake
from drivesim.jobs import obey
from drivesim.metrics import i3d, protocols, published, videomae
from drivesim.metrics.builtin import NAME as BUILTIN
from drivesim.metrics.builtin import Builtin, BuiltinFrames
from drivesim.metrics.detection import Detector
from drivesim.metrics.features import Extractor
from drivesim.metrics.inception import Inception
from drivesim.metrics.measure import Ruler
from drivesim.metrics.protocols import Protocol

FRAMES_IN_BATCH = {"cpu": 64, "cuda": 256, "mps": 64}


@dataclass(frozen=True)
class Settings:
    """How ``evaluate`` measures.

    Args:
        protocol: a name of ``protocols.PROTOCOLS``; None = ``builtin-v1``, or ``paper`` where weights are given.
        extractor: weight file of the network that the protocol looks through; None = ``builtin-v1``.
        inception: weight file of FID's Inception; None = ``builtin-v1`` stands in under its own name.
        fps, clips: in place of the protocol's; the receipt states them.
        controls: measure also what worthless video scores.
        window: seconds of a stretch of the drift curve; None = a twelfth of the longest video.
        cache: folder for features, kept by the content of the video.
        pairs: also PSNR, SSIM and LPIPS of each generated video against the real one of its name.
        boxes: also whether traffic is where the boxes say, as ``detector`` sees it.
        detector: ``detector-v1`` or an ONNX file with its YAML beside it; None = the former.
        clipsim: folder of CLIP's weights: also how well video goes with its words.
    """

    protocol: str | None = None
    extractor: Path | None = None
    inception: Path | None = None
    fps: Fraction | None = None
    clips: int | None = None
    controls: bool = True
    window: Fraction | None = None
    precision: Literal["32", "bf16"] = "32"
    cache: Path | None = None
    pairs: bool = False
    boxes: bool = False
    detector: str | None = None
    clipsim: Path | None = None


def protocol_for(settings: Settings) -> Protocol:
    """Raises:
    Mistake: an unknown protocol, or one that brings its own network beside another.
    """
    name = settings.protocol or (BUILTIN if settings.extractor is None else "paper")
    protocol = protocols.named(name, settings.fps, settings.clips)
    if protocol.extractor == BUILTIN and settings.extractor is not None:
        raise Mistake(f"protocol '{name}' brings its own network", where="--extractor", mend="name another --protocol")
    return protocol


def ruler_for(protocol: Protocol, settings: Settings, device: torch.device) -> Ruler:
    """The networks on ``device``; a batch holds as many frames as that kind of device likes, always the same.

    Raises:
        Mistake: the device cannot be used, or weights are missing or do not fit the protocol.
    """
    try:
        clip = _clip_network(protocol, settings, device)
        frame: Extractor = Inception(settings.inception, device) if settings.inception else BuiltinFrames(device)
    except (RuntimeError, AssertionError) as problem:
        words = str(problem).splitlines()[0]
        raise Mistake(f"the device cannot be used: {words}", where=f"--device {device}") from None
    batch = max(1, FRAMES_IN_BATCH.get(device.type, 64) // protocol.frames)
    return Ruler(protocol, clip, frame, settings.controls, batch, f"{settings.precision} {device.type}")


def detector_for(settings: Settings, device: torch.device) -> Detector | None:
    """What looks at traffic, where that is asked for.

    Raises:
        Mistake: a detector that nothing asks for, or that cannot be read.
    """
    if settings.boxes:
        return obey.detector(settings.detector, device)
    if settings.detector is not None:
        raise Mistake("has no meaning without --boxes", where="--detector")
    return None


def _clip_network(protocol: Protocol, settings: Settings, device: torch.device) -> Extractor:
    if protocol.extractor == BUILTIN:
        if settings.precision != "32":
            raise Mistake(f"{BUILTIN} runs in float32 alone", where="--precision")
        return Builtin(device)
    if settings.extractor is None:
        raise Mistake(
            f"protocol '{protocol.name}' looks through {protocol.extractor}, whose weights are not shipped",
            where="--extractor",
            mend=published.wanted(i3d.KNOWN if protocol.extractor == "i3d" else videomae.KNOWN),
        )
    if protocol.extractor == "videomae":
        if settings.precision != "32":
            raise Mistake("VideoMAE runs in float32 alone", where="--precision")
        return videomae.VideoMAE(settings.extractor, device, protocol.resize)
    return i3d.I3D(settings.extractor, device, protocol.resize, protocol.epsilon, settings.precision)
