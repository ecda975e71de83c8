"""Stage ``decoder``."""

from dataclasses import dataclass, field
from pathlib import Path

from drivesim import config, disk, weights
from drivesim.data.loader import ClipData
from drivesim.errors import Mistake
from drivesim.jobs.builders.common import Built, given, rate_of, weights_of
from drivesim.jobs.stack import load_decoder
from drivesim.models.autoencoder import Autoencoder
from drivesim.models.decoder import DecoderConfig, DecoderLayers
from drivesim.training.autoencoder import ReconstructionLoss
from drivesim.training.decoder import DecoderStage
from drivesim.training.loop import LoopConfig


@dataclass(frozen=True)
class DecoderRun:
    """Args:
    index: folder that ``drivesim index`` wrote.
    init: weights of this stage, of the same shapes, that training begins with; none named is random ones.
    autoencoder: the weights whose decoder gets the layers.
    teacher: weights of this stage, of the same autoencoder, whose pictures a thin decoder learns to make; none named:
        the real ones.
    size: height and width that frames are resized and cropped to; none: the autoencoder's.
    fps: rate of the clips; those with fewer frames a second are left out.
    """

    index: str = ""
    init: str = ""
    autoencoder: str = ""
    teacher: str = ""
    size: tuple[int, int] | None = None
    fps: str | int | float = "30"
    decoder: DecoderConfig = field(default_factory=DecoderConfig)
    loss: ReconstructionLoss = field(default_factory=ReconstructionLoss)
    loop: LoopConfig = field(default_factory=LoopConfig)

    def __post_init__(self) -> None:
        rate_of(self.fps)
        if self.decoder.frames < 2:
            raise Mistake("a clip that can flicker has frames >= 2", field="decoder.frames")
        if self.teacher and not self.decoder.channels:
            what = "a teacher teaches a thin decoder, which has channels of its own"
            raise Mistake(what, field="teacher", mend="decoder.channels=[32,64], or leave it out")


def _teacher(file: Path, autoencoder: Autoencoder, parent: Path) -> DecoderLayers:
    """Raises:
    Mistake: it decodes the latents of another autoencoder than that in the file ``parent``.
    """
    layers, header = load_decoder(file, autoencoder)
    if header.parents.get("autoencoder") != disk.sha256(parent):
        raise Mistake("decodes the latents of another autoencoder", where=file, mend="name the one of its folder")
    return layers


def build_decoder(settings: DecoderRun, begin: int) -> Built:
    from drivesim.metrics import builtin  # its first layers stand in for LPIPS, whose weights nobody has here

    file, loop, frames = weights_of(settings.autoencoder, "autoencoder"), settings.loop, settings.decoder.frames
    parent, autoencoder = weights.header(file, "autoencoder"), Autoencoder.load(file)
    if autoencoder.config.regularizer == "none":
        raise Mistake("pixels are their own latents: nothing is decoded", where=file)
    size, f = settings.size or parent.size, autoencoder.config.f
    if min(size) < 1 or any(side % f for side in size):
        raise Mistake(f"{size[0]}x{size[1]} does not divide by f = {f}", field="size")
    fps = rate_of(settings.fps)
    data = ClipData(
        given(settings.index, "index", "drivesim index"), frames=frames, fps=fps, size=size, batch=loop.batch,
        steps=loop.steps, start_step=begin, seed=loop.seed, workers=loop.workers,
    )  # fmt: skip
    perceptual = builtin.perceptual if settings.loss.perceptual else None
    teacher = _teacher(weights_of(settings.teacher, "decoder"), autoencoder, file) if settings.teacher else None
    try:
        stage = DecoderStage(autoencoder, settings.decoder, settings.loss, loop, perceptual, teacher)
    except ValueError as problem:
        raise Mistake(str(problem), field="decoder.channels") from None

    def header() -> weights.Header:
        return weights.Header(
            "decoder",
            config.plain(settings.decoder),
            parents={"autoencoder": disk.sha256(file)},
            size=size,
            frames=frames,
            fps=str(fps),
            latent=parent.latent,
        )

    return Built(stage, stage.temporal, data, (file,), data.digest, header)
