"""The image model that stages on latents start from or stand in, with what lies beside its file."""

from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

from drivesim import config, disk, weights
from drivesim.data.latents import LatentCache
from drivesim.diffusion.loss import LossConfig
from drivesim.diffusion.noise import ScheduleConfig
from drivesim.errors import Mistake
from drivesim.jobs import stack, tiny
from drivesim.models import text
from drivesim.models.temporal import TemporalConfig
from drivesim.models.text import TextEncoder
from drivesim.models.video import ImageModel
from drivesim.training.diffusion import TemporalStage


@dataclass(frozen=True, eq=False)
class Backbone:
    """The image model that is trained further, or that temporal layers are trained in, and what lies beside it.

    Args:
        file: of the image model; of one that is made anew, the file that it will be beside the autoencoder.
        words: its text encoder, in the folder ``text`` beside it, where it is told words.
    """

    image: ImageModel
    header: weights.Header
    file: Path
    autoencoder: Path
    words: TextEncoder | None = None

    @property
    def schedule(self) -> ScheduleConfig:
        return config.build(ScheduleConfig, self.header.schedule, self.file)

    @property
    def beside(self) -> tuple[Path, ...]:
        """What the weights of a training with it need beside them: the autoencoder, and the text encoder's folder."""
        return (self.autoencoder,) if self.words is None else (self.autoencoder, self.words.where)

    @property
    def parents(self) -> dict[str, str]:
        own = {"autoencoder": disk.sha256(self.autoencoder)}
        return own if self.words is None else {**own, "text": text.identity(self.words.where)}

    def check(self, cache: LatentCache, box_weight: float, temporal: TemporalConfig | None = None) -> None:
        """Raises:
        Mistake: the cache lacks boxes or captions that the model is told, or ``temporal`` takes tokens of another
            width.
        """
        check_boxes(self.image, cache, box_weight)
        if self.words is not None and not cache.captioned:
            mend = "index with --captions FILE, or with a text beside each clip, and encode again"
            raise Mistake("holds no captions, and the image model is told words", where=cache.folder, mend=mend)
        own = self.image.unet.config.cross
        if temporal is not None and not temporal.told and temporal.cross not in (None, own):
            what = f"the image model's tokens are {own or 'none'} wide, not {temporal.cross}"
            raise Mistake(what, field="temporal.cross", mend=f"temporal.cross={own or 'null'}")

    def cut(self, cache: LatentCache) -> tuple[str, ...]:
        """A line on the captions that are longer than the text encoder reads."""
        if self.words is None:
            return ()
        captions = {sequence.caption for sequence in cache.split("train") if sequence.caption}
        longer = sum(not self.words.fits(caption) for caption in captions)
        read = f"longer than the {self.words.length - 2} tokens that the text encoder reads"
        return (f"{longer} captions are {read}: their ends are cut off",) if longer else ()

    def of_image(self, size: tuple[int, int]) -> weights.Header:
        """The header of an image model that was trained further on frames of ``size``."""
        return replace(self.header, parents=self.parents, size=size)

    def of_temporal(
        self, name: str, stage: TemporalStage, loss: LossConfig, size: tuple[int, int], fps: Fraction
    ) -> weights.Header:
        """The header of temporal layers in it, or of both in one file, which then does not need its own."""
        own, whole = stage.temporal.config, stage.whole
        both = {"model": config.plain(stage.image.unet.config), "temporal": config.plain(own)}
        return weights.Header(
            name,
            both if whole else config.plain(own),
            parents=self.parents if whole else {**self.parents, "image": disk.sha256(self.file)},
            interface=self.header.interface,
            size=size,
            frames=own.frames,
            fps=str(fps),
            latent=self.header.latent,
            schedule={**self.header.schedule, "shared": loss.shared},
            labels=self.header.labels,
            alpha=own.alpha,
            norm=own.norm,
        )


def in_folder(backbone: str) -> Path:
    """Raises:
    Mistake: no folder of weights, or a public pipeline.
    """
    folder = tiny.named(Path(backbone))
    stack.check_folder(folder)
    return folder / "image.safetensors"


def backbone_of(file: Path) -> Backbone:
    """The image model in ``file``, whose autoencoder lies beside it, and its text encoder, where it is told words.

    Raises:
        Mistake: a missing file, weights of another stage, or another autoencoder or text encoder than the image
            model's.
    """
    autoencoder, folder = file.parent / "autoencoder.safetensors", file.parent / text.FOLDER
    model, header = stack.load_image(file)
    weights.header(autoencoder, "autoencoder")
    if disk.sha256(autoencoder) != header.parents.get("autoencoder"):
        raise Mistake("not the autoencoder that the image model was trained on", where=autoencoder)
    if not model.unet.config.text:
        return Backbone(model, header, file, autoencoder)
    if not folder.is_dir():
        mend = "copy text/ of the weights that it was trained with there"
        raise Mistake("no text encoder, and the image model is told words", where=folder, mend=mend)
    if text.identity(folder) != header.parents.get("text"):
        raise Mistake("not the text encoder that the image model was trained with", where=folder)
    words = TextEncoder.load(folder)
    if words.width != model.unet.config.cross:
        what = f"makes tokens {words.width} wide, the image model takes {model.unet.config.cross}"
        raise Mistake(what, where=folder)
    return Backbone(model, header, file, autoencoder, words)


def check_boxes(image: ImageModel, cache: LatentCache, weight: float) -> None:
    """Raises:
    Mistake: a model that is told boxes, or a loss that weighs them, and a cache that holds none; a weight below 0.
    """
    if weight < 0:
        raise Mistake(f"is 0 or more, not {weight:g}", field="box_weight")
    if weight and not cache.about.boxes:
        what, mend = (
            "holds no boxes, which the loss is to weigh",
            "index with --labels and encode again; or box_weight=0",
        )
        raise Mistake(what, where=cache.folder, mend=mend)
    if image.takes_boxes and not cache.about.boxes:
        mend = "index with --labels and encode again; or train an image model without joined: [boxes] and box_tokens"
        raise Mistake("holds no boxes, and the image model is told them", where=cache.folder, mend=mend)
