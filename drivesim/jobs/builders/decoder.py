"""Stage ``decoder``."""

from dataclasses import dataclass, field

from drivesim import config, weights
from drivesim.data.loader import ClipData
from drivesim.errors import Mistake
from drivesim.jobs.builders.common import Built, given, rate_of, weights_of
from drivesim.models.autoencoder import Autoencoder
from drivesim.models.decoder import DecoderConfig
from drivesim.training.autoencoder import ReconstructionLoss
from drivesim.training.decoder import DecoderStage
from drivesim.training.loop import LoopConfig


@dataclass(frozen=True)
class DecoderRun:
    """Args:
    index: folder that ``drivesim index`` wrote.
    init: weights of this stage, of the same shapes, that training begins with; none named is random ones.
    autoencoder: the weights whose decoder gets the layers.
    size: height and width that frames are resized and cropped to; none: the autoencoder's.
    fps: rate of the clips; those with fewer frames a second are left out.
    """

    index: str = ""
    init: str = ""
    autoencoder: str = ""
    size: tuple[int, int] | None = None
    fps: str | int | float = "30"
    decoder: DecoderConfig = field(default_factory=DecoderConfig)
    loss: ReconstructionLoss = field(default_factory=ReconstructionLoss)
    loop: LoopConfig = field(default_factory=LoopConfig)

    def __post_init__(self) -> None:
        rate_of(self.fps)
        if self.decoder.frames < 2:
            raise Mistake("a clip that can flicker has frames >= 2", field="decoder.frames")


def build_decoder(settings: DecoderRun, begin: int) -> Built:
    from drivesim.metrics import builtin  # its first layers stand in for LPIPS, whose weights nobody has here

    file, loop, frames = weights_of(settings.autoencoder, "autoencoder"), settings.loop, settings.decoder.frames
    parent, autoencoder = weights.header(file, "autoencoder"), Autoencoder.load(file)
    size, f = settings.size or parent.size, autoencoder.config.f
    if min(size) < 1 or any(side % f for side in size):
        raise Mistake(f"{size[0]}x{size[1]} does not divide by f = {f}", field="size")
    fps = rate_of(settings.fps)
    data = ClipData(
        given(settings.index, "index", "drivesim index"), frames=frames, fps=fps, size=size, batch=loop.batch,
        steps=loop.steps, start_step=begin, seed=loop.seed, workers=loop.workers,
    )  # fmt: skip
    perceptual = builtin.perceptual if settings.loss.perceptual else None
    stage = DecoderStage(autoencoder, settings.decoder, settings.loss, loop, perceptual)

    def header() -> weights.Header:
        return weights.Header(
            "decoder",
            config.plain(settings.decoder),
            parents={"autoencoder": weights.sha256(file)},
            size=size,
            frames=frames,
            fps=str(fps),
            latent=parent.latent,
        )

    return Built(stage, stage.temporal, data, (file,), data.digest, header)
