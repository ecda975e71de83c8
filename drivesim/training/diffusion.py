"""Stages ``image`` and ``keyframes``: diffusion on cached latents, the second with temporal layers alone trained [§3,
Fig. 2]; and what every stage has in common that trains the temporal layers of a frozen image model."""

import copy
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from einops import rearrange, repeat
from torch import Tensor, nn

from drivesim.diffusion.distill import Distillation, DistillConfig, few
from drivesim.diffusion.guidance import Denoise, Guidance
from drivesim.diffusion.known import keeping
from drivesim.diffusion.loss import DiffusionLoss, LossConfig
from drivesim.diffusion.noise import Schedule, ScheduleConfig, shared_noise
from drivesim.diffusion.precondition import Denoiser
from drivesim.diffusion.samplers import ddim
from drivesim.errors import Mistake
from drivesim.models.autoencoder import Autoencoder, split_moments
from drivesim.models.boxes import coverage
from drivesim.models.conditions import UNKNOWN
from drivesim.models.temporal import TemporalConfig, TemporalLayers
from drivesim.models.text import TextEncoder
from drivesim.models.video import ImageModel, VideoUNet
from drivesim.randomness import normal, uniform
from drivesim.scene import Condition, FrameBoxes, Level, to_pixels
from drivesim.training.loop import LoopConfig, Stage

Batch = dict[str, Any]  # tensors by name, and "caption": a list of text


@dataclass(frozen=True, eq=False)
class Conditions:
    """What a model is told in training, and how often it is not.

    Args:
        label_drop, box_drop: how often the labels (or the words), and the boxes, are unknown to a sample.
        box_weight: how much more the loss counts where agents are.
        box_small: how much more of that small agents have: theirs times ``(16 / cells) ** box_small``.
        text: makes tokens of captions, for a model that is told words; a dropped caption is "". It stays as it is.
    """

    label_drop: float = 0.1
    box_drop: float = 0.1
    box_weight: float = 0.0
    box_small: float = 0.0
    text: TextEncoder | None = None


USUAL = Conditions()


@dataclass(frozen=True, eq=False)
class Latents:
    """What the stages need of the autoencoder: the whitening ``(C,)``, and both its ways."""

    mean: Tensor
    std: Tensor
    decoder: Autoencoder

    @property
    def f(self) -> int:
        return self.decoder.config.f

    def of(self, video: Tensor) -> Tensor:
        """``B T 3 H W`` in [-1, 1] to whitened means ``B T C h w``, frame by frame."""
        coder = self.decoder.to(video.device)
        means = [split_moments(coder.encode(clip[n : n + 1]).float())[0] for clip in video for n in range(len(clip))]
        return self.whiten(rearrange(torch.cat(means), "(b t) c h w -> b t c h w", b=len(video)))

    def whiten(self, z: Tensor) -> Tensor:
        return (z - self.mean.to(z)[:, None, None]) / self.std.to(z)[:, None, None]

    def pixels(self, whitened: Tensor) -> np.ndarray:
        """``B T C h w`` to uint8 ``B T H W 3``."""
        z = whitened.float() * self.std.to(whitened)[:, None, None] + self.mean.to(whitened)[:, None, None]
        decoded = [to_pixels(self.decoder.to(z.device).decode(clip)) for clip in z]
        return np.stack(decoded)


@dataclass(frozen=True)
class ContextConfig:
    """Args:
    given: probabilities of 0, 1, 2, ... given frames *(open in the paper)*; 0 is what context guidance contrasts with.
    noise: the given latents are noised by U(0, noise) of their deviation, and the model is told how much: rollouts feed
        the model its own, imperfect frames.
    clean: given frames stand in the window itself, at the lowest level, in the place of context features: for temporal
        layers without those.
    own: how often the given latents are what the model itself makes of noised ones, in the later part of training, from
        the share ``own_from`` of its budget on: its imperfections are then those that a rollout will show it.
    """

    given: tuple[float, ...] = (0.15, 0.25, 0.6)
    noise: float = 0.2
    clean: bool = False
    own: float = 0.0
    own_from: float = 0.5

    def __post_init__(self) -> None:
        if len(self.given) < 2 or abs(sum(self.given) - 1) > 1e-6 or min(self.given) < 0 or self.noise < 0:
            raise Mistake("given must be probabilities that add up to 1, noise >= 0", field="context")
        if not 0 <= self.own <= 1 or not 0 <= self.own_from < 1:
            raise Mistake("needs 0 <= own <= 1 and 0 <= own_from < 1", field="context")
        if self.clean and (self.noise or self.own):
            what = "given frames that stand in the window are the footage's, without noise"
            raise Mistake(what, field="context.clean", mend="context.noise=0 context.own=0")

    @property
    def most(self) -> int:
        """Frames that are given at most."""
        return len(self.given) - 1


class ImageStage(Stage):
    """The image LDM, from batches ``{"moments": B T 2C h w, "fps": B, "night": B, "cars": B, "sample": B}``, with the
    boxes of every frame, or the caption of the clip, where the model is told them.

    It learns the posterior's means. Draws from it, as latent diffusion takes them, hold noise that no model can
    predict: with the strong KL of the small configurations that was most of the loss.
    """

    latents: Latents
    text: TextEncoder | None
    steps_drawn = 20  # of DDIM, for pictures
    clean = False  # whether frames that are not predicted are shown without noise

    def __init__(
        self,
        image: ImageModel,
        latents: Latents | None,
        schedule: ScheduleConfig,
        loss: LossConfig,
        loop: LoopConfig,
        conditions: Conditions = USUAL,
    ):
        super().__init__(loop)
        self.image = image
        self.schedule = Schedule(schedule)
        self.objective: DiffusionLoss | Distillation = DiffusionLoss(self.schedule, loss)
        self.shared, self.apart = loss.shared, loss.apart
        self.conditions = conditions
        # not submodules: what is frozen stays out of checkpoints and of EMA
        self.__dict__["latents"], self.__dict__["text"] = latents, conditions.text
        self.shown: Batch | None = None

    @property
    def network(self) -> VideoUNet:
        return VideoUNet(self.image.unet)

    def distil(self, config: DistillConfig) -> None:
        """From here on the stage learns to reach, in few steps, what its own weights as they are now reach in more."""
        teacher = self._copied().requires_grad_(False).eval()
        null_tokens = self._null_tokens()
        for tokens in (self.image.labels, self.image.boxes):  # the teacher is told them, too
            if tokens is not None:
                tokens.requires_grad_(False)
        # not a submodule either: it moves to where the data are when it is called
        self.objective = Distillation(
            self.schedule,
            config,
            lambda x, level, condition: Guidance(
                Denoiser(teacher.to(x.device), self.schedule),
                context=config.context, labels=config.labels, boxes=config.boxes, null_tokens=null_tokens,
            )(x, level, condition),
        )  # fmt: skip
        self.steps_drawn, self.apart = config.steps, 0.0

    def _copied(self) -> VideoUNet:
        """The network with its weights of now."""
        return copy.deepcopy(self.network)

    @torch.no_grad()
    def _null_tokens(self) -> Tensor | None:
        """``L D``: the tokens of dropped words or labels."""
        if self.text is not None:
            return self.text.tokens([""])[0]
        unknown = torch.tensor([UNKNOWN])
        return None if self.image.labels is None else self.image.labels(unknown, unknown)[0]

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return self.optimiser(p for p in self.parameters() if p.requires_grad)

    def forward(self, batch: Batch) -> Tensor:
        """The mean loss of its samples."""
        samples = [int(n) for n in batch["sample"]]
        z = self._clean(batch)
        noise, u = self._noise(z, samples), self._levels(z, samples)
        condition, predicted = self._condition(batch, z, samples)
        weight = self._weight(batch, z)
        per_sample = self.objective(self.network, z, noise, u, condition, predicted, weight, self.clean)
        self.shown = {k: v[:2] for k, v in batch.items()}
        return self._total(per_sample, samples)

    def _levels(self, z: Tensor, samples: list[int]) -> Tensor:
        """Uniform numbers that levels are made of: ``B``, or ``B T`` where frames have levels of their own."""
        u = self._uniform("level", samples).to(z)
        if not self.apart:
            return u
        each = torch.stack([uniform((self.loop.seed, "level of a frame", n), (z.shape[1],)) for n in samples]).to(z)
        apart = (self._uniform("apart", samples) < self.apart).to(z.device)
        return torch.where(apart[:, None], each, u[:, None])

    def _total(self, per_sample: Tensor, samples: list[int]) -> Tensor:
        """The loss of a batch, from that of each of its samples: such that the mean over equal parts of a batch is that
        of the whole."""
        return per_sample.mean()

    def _clean(self, batch: Batch) -> Tensor:
        """What is diffused, ``B T C h w``: whitened latents."""
        return self.latents.whiten(split_moments(batch["moments"].float())[0])

    def _condition(self, batch: Batch, z: Tensor, samples: list[int]) -> tuple[Condition, Tensor | None]:
        return self._boxed(batch, Condition(tokens=self._tokens(batch, samples)), z, samples), None

    def _boxed(self, batch: Batch, condition: Condition, z: Tensor, samples: list[int] | None = None) -> Condition:
        """``condition`` with the boxes, where the model is told them; with ``samples``, dropped for a share of
        them."""
        if not self.image.takes_boxes or (boxes := FrameBoxes.of(batch)) is None:
            return condition
        if samples is not None:
            boxes = boxes.where(self._uniform("box drop", samples) >= self.conditions.box_drop)
        return self.image.told(boxes, (z.shape[-2], z.shape[-1]), condition)

    def _weight(self, batch: Batch, z: Tensor) -> Tensor | None:
        """``B T 1 h w``: 1, and ``box_weight`` more where agents are: they are few, small, and what is looked at."""
        if not self.conditions.box_weight or (boxes := FrameBoxes.of(batch)) is None:
            return None
        told = self.conditions
        return 1 + told.box_weight * coverage(boxes, z.shape[-2], z.shape[-1], told.box_small)

    def _tokens(self, batch: Batch, samples: list[int] | None) -> Tensor | None:
        """Tokens of the labels, or of the words; with ``samples``, dropped for a share of them [E.1]."""
        if self.text is None and self.image.labels is None:
            return None
        dropped = torch.zeros(len(batch["sample"]), dtype=torch.bool)
        if samples is not None:
            dropped = self._uniform("drop", samples) < self.conditions.label_drop
        if self.text is not None:
            told = zip(batch["caption"], dropped.tolist(), strict=True)
            return self._words(self.text, ["" if gone else caption for caption, gone in told], batch["sample"].device)
        assert self.image.labels is not None
        night, cars = (torch.where(dropped.to(y.device), UNKNOWN, y) for y in (batch["night"], batch["cars"]))
        return self.image.labels(night, cars)

    def _words(self, text: TextEncoder, captions: list[str], device: torch.device) -> Tensor:
        """``B L D``, in full precision, as a rollout makes them."""
        with torch.autocast(device.type, enabled=False):
            return text.to(device).tokens(captions, cut=True).to(device)

    def _noise(self, z: Tensor, samples: list[int]) -> Tensor:
        seed, (t, *cell) = self.loop.seed, z.shape[1:]
        frame = torch.stack([normal((seed, "noise", n), (t, *cell)) for n in samples]).to(z)
        if not self.shared:
            return frame
        clip = torch.stack([normal((seed, "noise of the clip", n), (1, *cell)) for n in samples]).to(z)
        return shared_noise(clip, frame, self.shared)

    def _uniform(self, what: str, samples: list[int]) -> Tensor:
        return torch.stack([uniform((self.loop.seed, what, n)) for n in samples])

    def _sampled(self, z: Tensor, condition: Condition, network: VideoUNet, known: Tensor | None = None) -> Tensor:
        """Args:
        known: ``B g C h w``, first frames that the model has learned to see without noise.
        """
        start = torch.stack([normal((self.loop.seed, "picture", i), tuple(z.shape[1:])) for i in range(len(z))]).to(z)
        return self._drawn(Denoiser(network, self.schedule), condition, start, self.steps_drawn, known)

    def _drawn(
        self, denoise: Denoise, condition: Condition, noise: Tensor, steps: int, known: Tensor | None = None
    ) -> Tensor:
        """What DDIM makes of unit ``noise``."""
        levels = few(self.schedule, steps)
        x = noise * float(self.schedule.start_scale(levels.sigmas[0]))

        def told(y: Tensor, level: Level) -> Tensor:
            return denoise(y, level, condition)

        return ddim(told if known is None else keeping(told, known, self.schedule.least), x, levels)

    @torch.no_grad()
    def pictures(self) -> np.ndarray:
        """Real frames above, sampled ones with the same labels below."""
        assert self.shown is not None
        z = self._clean(self.shown)
        condition = self._boxed(self.shown, Condition(tokens=self._tokens(self.shown, None)), z)
        sampled = self._sampled(z, condition, self.network)
        return np.concatenate([self.latents.pixels(z), self.latents.pixels(sampled)])


class TemporalStage(ImageStage, ABC):
    """The image model frozen, its temporal layers trained; some frames of a window are given, the others predicted.

    Args:
        noise: the given latents are noised by U(0, noise) of their deviation, and the model is told how much.
        whole: the image model's U-Net is trained along. What it is told, its tokens of labels and boxes, stays:
            rollouts take that from the image model beside.
    """

    def __init__(
        self,
        image: ImageModel,
        latents: Latents,
        temporal: TemporalConfig,
        noise: float,
        schedule: ScheduleConfig,
        loss: LossConfig,
        loop: LoopConfig,
        conditions: Conditions = USUAL,
        whole: bool = False,
    ):
        super().__init__(image, latents, schedule, loss, loop, conditions)
        self.image.requires_grad_(False)
        self.image.unet.requires_grad_(whole)
        self.whole = whole
        self.temporal = TemporalLayers(temporal, image.unet)
        self.noise = noise

    @abstractmethod
    def _given(self, t: int, samples: list[int] | None) -> Tensor:
        """``B T``, or ``T`` where no samples are named: 1 where a frame is given to the sample; else all that can
        be."""

    @property
    def network(self) -> VideoUNet:
        return VideoUNet(self.image.unet, self.temporal)

    @property
    def trained(self) -> nn.Module:
        """What is saved; of a whole model, its tensors are named as those of ``models.video.WholeModel``."""
        return nn.ModuleDict({"image": self.image, "temporal": self.temporal}) if self.whole else self.temporal

    def _copied(self) -> VideoUNet:
        if self.whole:
            return super()._copied()
        return VideoUNet(self.image.unet, copy.deepcopy(self.temporal))

    def _condition(self, batch: Batch, z: Tensor, samples: list[int]) -> tuple[Condition, Tensor | None]:
        t = z.shape[1]
        mask = self._given(t, samples).to(z)
        amount = self._amount(self._uniform("context level", samples).to(z))
        level = repeat(amount, "b -> b t", t=t) * mask
        noise = torch.stack([normal((self.loop.seed, "context", n), tuple(z.shape[1:])) for n in samples]).to(z)
        given = self._frames(batch, z, samples) + level[..., None, None, None] * noise
        shown = self._shown(batch, given, mask, level, self._tokens(batch, samples))
        return self._boxed(batch, shown, z, samples), mask == 0

    def _frames(self, batch: Batch, z: Tensor, samples: list[int]) -> Tensor:
        """The latents that given frames are taken from, before noise is added."""
        return z

    def _amount(self, u: Tensor) -> Tensor:
        """How much noise is put on what is given, from ``u`` uniform in [0, 1); both ``B``."""
        return u * self.noise

    def _shown(self, batch: Batch, z: Tensor, mask: Tensor, level: Tensor, tokens: Tensor | None) -> Condition:
        return Condition(
            tokens=tokens,
            context=z * mask[..., None, None, None],
            context_mask=mask,
            context_level=level,
            given=mask.sum(dim=1).long(),
            fps=batch["fps"],
        )

    @torch.no_grad()
    def pictures(self) -> np.ndarray:
        """Real windows above; below, windows sampled from all the frames that the model can be given."""
        assert self.shown is not None
        z = self._clean(self.shown)
        mask = self._given(z.shape[1], None).to(z).expand(z.shape[:2])
        condition = self._shown(self.shown, z, mask, torch.zeros_like(mask), self._tokens(self.shown, None))
        known = z[:, : int(mask[0].sum())] if self.clean else None
        sampled = self._sampled(z, self._boxed(self.shown, condition, z), self.network, known)
        plane = mask[..., None, None, None]
        return np.concatenate([self.latents.pixels(z), self.latents.pixels(plane * z + (1 - plane) * sampled)])


class KeyframeStage(TemporalStage):
    """The prediction model: 0, 1 or 2 first frames given [§3.2]."""

    def __init__(
        self,
        image: ImageModel,
        latents: Latents,
        temporal: TemporalConfig,
        context: ContextConfig,
        schedule: ScheduleConfig,
        loss: LossConfig,
        loop: LoopConfig,
        conditions: Conditions = USUAL,
        whole: bool = False,
    ):
        super().__init__(image, latents, temporal, context.noise, schedule, loss, loop, conditions, whole)
        self.context, self.clean = context, context.clean

    def _given(self, t: int, samples: list[int] | None) -> Tensor:
        if samples is None:
            return (torch.arange(t) < self.context.most).float()
        ends = torch.tensor(self.context.given).cumsum(0)[:-1]
        count = (self._uniform("given", samples)[:, None] >= ends).sum(1)
        return (torch.arange(t) < count[:, None]).float()

    def _frames(self, batch: Batch, z: Tensor, samples: list[int]) -> Tensor:
        """``z`` of some samples as the model itself sees it in one step, from noise of a level of the lower half, with
        no frame given: what windows leave behind is such as this."""
        if not self.context.own or self.progress < self.context.own_from:
            return z
        own = self._uniform("own", samples) < self.context.own  # none, maybe: processes with shards compute alike
        noise = torch.stack([normal((self.loop.seed, "own noise", n), tuple(z.shape[1:])) for n in samples]).to(z)
        level = self._low(self._uniform("own level", samples).to(z), z.shape[1])
        bare = self._shown(batch, z, z.new_zeros(z.shape[:2]), z.new_zeros(z.shape[:2]), self._tokens(batch, samples))
        with torch.no_grad():
            condition = self._boxed(batch, bare, z, samples)
            made = Denoiser(self.network, self.schedule)(z + level.of(z) * noise, level, condition)
        return torch.where(own.to(z.device)[:, None, None, None, None], made, z)

    def _low(self, u: Tensor, t: int) -> Level:
        """A level of the lower half of the schedule, for all frames of a sample."""
        if self.schedule.config.kind == "edm":
            low, high = self.schedule.sigmas.log().tolist()
            return Level(repeat((low + u.double() * (high - low) / 2).exp(), "b -> b t", t=t))
        return self.schedule.level(repeat((u * self.schedule.config.steps / 2).long(), "b -> b t", t=t))
