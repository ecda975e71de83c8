"""A window of frames four times as high and wide, from the upsampler [§3.4]."""

import torch
from torch import Tensor

from drivesim.diffusion.lowres import augmented
from drivesim.diffusion.tiles import Tiled
from drivesim.rollout.plan import video_frame
from drivesim.rollout.sample import START, NoiseSource, Told, sample
from drivesim.rollout.settings import GuidanceConfig, UpsampleConfig
from drivesim.rollout.stack import Stack
from drivesim.scene import Condition

USUAL_NOISE = 0.6  # of the levels learned from: 150 of 250 [H.1]


class Upscaler:
    """The upsampler as the stage ``upsample`` calls it.

    Args:
        factor: output frames per key-frame.
        told: to every call; it takes no boxes.
    """

    def __init__(self, stack: Stack, config: UpsampleConfig, noise: NoiseSource, told: Told, factor: int):
        assert stack.upsampler is not None  # the engine plans no upsampling without
        self.stack, self.model, self.config, self.noise, self.factor = stack, stack.upsampler, config, noise, factor
        self.level = round(USUAL_NOISE * self.model.levels) if config.noise is None else config.noise
        self.tokens = told.tokens(self.model.tokens, stack.device)
        plain = self.model.denoiser
        denoiser = plain if config.tile is None else Tiled(plain, config.tile, config.tile_overlap)
        self.denoiser = GuidanceConfig().around(denoiser, self.model.null_tokens)
        self.sampler, self.levels = config.sampler.build(plain)

    @torch.inference_mode()
    def __call__(self, place: int, low: Tensor, known: Tensor) -> Tensor:
        """``T 3 H W`` from ``low`` T 3 h w, both in [-1, 1], whose first frame is frame ``place`` of the output.

        Args:
            known: ``g 3 H W``, the first frames, which come out unchanged; g may be 0.
        """
        stack, model = self.stack, self.model
        frames = [video_frame(place + n, self.factor) for n in range(len(low))]
        shape = (3, low.shape[-2] * model.factor, low.shape[-1] * model.factor)

        def draw(step: int) -> Tensor:
            return self.noise("upsampler", frames, step, shape, model.shared).to(stack.device)

        added = self.noise("low", frames, START, (3, *low.shape[-2:])).to(stack.device)
        index = torch.tensor([self.level], device=stack.device)
        condition = Condition(
            tokens=self.tokens,
            low=augmented(low.to(stack.device)[None], index, added, model.denoiser.schedule, model.factor),
            low_level=index,
        )
        given = known.to(stack.device)[None] if len(known) else None
        clean = len(known) <= model.known
        made = sample(model.denoiser, self.denoiser, self.sampler, self.levels, condition, draw, given, clean)
        x = made[0].float()
        x[: len(known)] = known  # "euler" ends at them up to rounding
        return x.clamp(-1, 1)
