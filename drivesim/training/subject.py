"""DreamBooth [§4.2, H.2; Ruiz et al., arXiv 2208.12242]: an image model that is told words learns a subject from a
few pictures, under a rare word, and by its own pictures of the class does not forget what others of it look like."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from drivesim.diffusion.guidance import Guidance
from drivesim.diffusion.loss import LossConfig
from drivesim.diffusion.noise import ScheduleConfig
from drivesim.diffusion.precondition import Denoiser
from drivesim.errors import Mistake
from drivesim.models.text import TextEncoder
from drivesim.models.video import ImageModel
from drivesim.randomness import normal
from drivesim.scene import Condition
from drivesim.training.diffusion import USUAL, Conditions, ImageStage, Latents
from drivesim.training.loop import LoopConfig


@dataclass(frozen=True)
class SubjectConfig:
    """Args:
    pictures: a folder of PNG and JPEG that show the subject (the paper: 8 to 23); with none, no subject is learned.
    prompt: what they show, with a rare word for the subject: "a photo of sks car".
    class_prompt: the same without that word; the backbone makes ``class_pictures`` of it, which are kept in OUT/class.
    prior: weight of their loss beside the subject's.
    size: height and width that pictures are resized and cropped to; null for the backbone's.
    text: the text encoder is trained as well.
    steps, guidance: of the sampler that makes the class pictures.
    """

    pictures: str = ""
    prompt: str = ""
    class_prompt: str = ""
    class_pictures: int = 256
    prior: float = 1.0
    size: tuple[int, int] | None = None
    text: bool = True
    steps: int = 50
    guidance: float = 7.5

    def __post_init__(self) -> None:
        for name, option in (("pictures", "subject DIR"), ("prompt", "prompt P"), ("class_prompt", "class-prompt P")):
            if self.asked and not getattr(self, name).strip():
                raise Mistake("is missing", field=f"subject.{name}", mend=f"--{option}")
        if self.asked and self.prompt == self.class_prompt:
            mend = "a rare word in the prompt alone, as in 'a photo of sks car'"
            raise Mistake("is the prompt of the class, too", field="subject.prompt", mend=mend)
        if self.class_pictures < 1 or not 0 < self.prior < math.inf:
            raise Mistake("needs class_pictures >= 1 and prior > 0", field="subject")
        if self.steps < 1 or not 0 <= self.guidance < math.inf:
            raise Mistake("needs steps >= 1 and guidance >= 0", field="subject")

    @property
    def asked(self) -> bool:
        """Whether a subject is to be learned."""
        return bool(self.pictures or self.prompt or self.class_prompt)


class SubjectStage(ImageStage):
    """From batches ``{"moments": B 1 2C h w, "caption": B, "sample": B}``, of which even samples are of the subject and
    odd ones of the class."""

    latents: Latents

    def __init__(
        self,
        image: ImageModel,
        latents: Latents,
        subject: SubjectConfig,
        schedule: ScheduleConfig,
        loss: LossConfig,
        loop: LoopConfig,
        conditions: Conditions = USUAL,
    ):
        super().__init__(image, latents, schedule, loss, loop, conditions)
        self.subject = subject
        if subject.text and conditions.text is not None:
            self.text = conditions.text.requires_grad_(True)  # from now on a submodule

    def _total(self, per_sample: Tensor, samples: list[int]) -> Tensor:
        """Subject + prior * class, the mean of each: half of a whole batch, however many of a part of it."""
        of_class = torch.tensor(samples, device=per_sample.device) % 2 == 1
        return 2 * torch.where(of_class, self.subject.prior * per_sample, per_sample).mean()

    def _words(self, text: TextEncoder, captions: list[str], device: torch.device) -> Tensor:
        return text(text.ids(captions)) if self.subject.text else super()._words(text, captions, device)

    @torch.no_grad()
    def class_picture(self, number: int, cells: tuple[int, int], steps: int | None = None) -> np.ndarray:
        """A picture of the class, uint8 ``H W 3``, by the model as it is: a function of the seed and its number.

        Args:
            cells: height and width of its latents.
            steps: of the sampler; None: as configured.
        """
        assert self.text is not None
        told, nothing = self._words(self.text, [self.subject.class_prompt, ""], self.device)
        denoiser = Denoiser(self.network, self.schedule)
        guided = Guidance(denoiser, labels=self.subject.guidance, null_tokens=nothing, batched=True)
        shape = (1, self.image.unet.config.out_channels, *cells)
        noise = normal((self.loop.seed, "class", number), shape)[None].to(self.device)
        drawn = self._drawn(guided, Condition(tokens=told[None]), noise, steps or self.subject.steps)
        return self.latents.pixels(drawn)[0, 0]
