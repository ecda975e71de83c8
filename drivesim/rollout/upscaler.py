"""A window of frames four times as high and wide, from the upsampler [§3.4]: of pixels, or of latents [H.2]."""

from collections.abc import Callable

import torch
from torch import Tensor

from drivesim.diffusion.lowres import augmented
from drivesim.diffusion.tiles import Denoise, Tiled, blended
from drivesim.rollout.plan import video_frame
from drivesim.rollout.sample import START, NoiseSource, Told, sample
from drivesim.rollout.settings import UpsampleConfig
from drivesim.rollout.stack import LatentSpace, Stack
from drivesim.scene import Condition

USUAL_NOISE = 0.6  # of the levels learned from: 150 of 250 [H.1]
USUAL_LATENT_NOISE = 30  # of Stable Diffusion's upscaler of latents [H.2]


class Upscaler:
    """The upsampler as the stage ``upsample`` calls it.

    Args:
        factor: output frames per key-frame.
        told: to every call; it takes no boxes.
    """

    def __init__(self, stack: Stack, config: UpsampleConfig, noise: NoiseSource, told: Told, factor: int):
        assert stack.upsampler is not None  # the engine plans no upsampling without
        self.stack, self.model, self.config, self.noise, self.factor = stack, stack.upsampler, config, noise, factor
        self.space = stack.upsampler.latent
        levels = self.model.levels
        usual = round(USUAL_NOISE * levels) if self.space is None else min(USUAL_LATENT_NOISE, levels)
        self.level = usual if config.noise is None else config.noise
        self.tokens = told.tokens(self.model.tokens, stack.device)
        plain, f = self.model.denoiser, self.space.f if self.space else 1
        denoiser: Denoise = plain
        if config.tile is not None:
            denoiser = Tiled(plain, (config.tile[0] // f, config.tile[1] // f), config.tile_overlap // f)
        self.denoiser = config.guidance.around(denoiser, self.model.null_tokens)
        self.sampler, self.levels = config.sampler.build(plain)

    @torch.inference_mode()
    def __call__(self, place: int, low: Tensor, known: Tensor) -> Tensor:
        """``T 3 H W`` from ``low`` T 3 h w, both in [-1, 1], whose first frame is frame ``place`` of the output.

        Args:
            known: ``g 3 H W``, the first frames, which come out unchanged; g may be 0.
        """
        known = known.to(self.stack.device)
        given = known if self.space is None or not len(known) else _each(self.space.encode, known)
        x = self.sampled(place, low, given)
        if self.space is not None:
            x = self._decoded(self.space, x)
        x[: len(known)] = known  # "euler" ends at them up to rounding
        return x.clamp(-1, 1)

    def sampled(self, place: int, low: Tensor, known: Tensor) -> Tensor:
        """The same before it is decoded: whitened latents ``T C h w`` from those that are known, or pixels."""
        stack, model = self.stack, self.model
        f, channels, schedule = (1, 3, model.denoiser.schedule)
        if self.space is not None:
            f, channels, schedule = self.space.f, self.space.channels, self.space.low
        frames = [video_frame(place + n, self.factor) for n in range(len(low))]
        shape = (channels, low.shape[-2] * model.factor // f, low.shape[-1] * model.factor // f)

        def draw(step: int) -> Tensor:
            return self.noise("upsampler", frames, step, shape, model.shared).to(stack.device)

        added = self.noise("low", frames, START, (3, *low.shape[-2:])).to(stack.device)
        index = torch.tensor([self.level], device=stack.device)
        condition = Condition(
            tokens=self.tokens,
            low=augmented(low.to(stack.device)[None], index, added, schedule, model.factor // f),
            low_level=index,
        )
        given = known[None] if len(known) else None
        clean = len(known) <= model.known
        made = sample(model.denoiser, self.denoiser, self.sampler, self.levels, condition, draw, given, clean)
        return made[0].float()

    def _decoded(self, space: LatentSpace, z: Tensor) -> Tensor:
        """``T 3 H W`` from latents, a frame at a time: in full, or in the tiles that they were made in, since a decoder
        takes far more memory than the latents, and its attention over all places of a large frame the most."""
        if self.config.tile is None:
            return _each(space.decode, z)
        (height, width), overlap, f = self.config.tile, self.config.tile_overlap, space.f

        def decoded(cut: Tensor, _: object) -> Tensor:
            return space.decode(cut).float()

        tile = (height // f, width // f)
        return torch.cat([blended(decoded, frame[None], tile, overlap // f, channels=3, scale=f) for frame in z])


def _each(change: Callable[[Tensor], Tensor], frames: Tensor) -> Tensor:
    """``change`` of every frame by itself."""
    return torch.cat([change(frame[None]).float() for frame in frames])
