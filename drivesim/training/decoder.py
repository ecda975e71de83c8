"""Stage ``decoder``: temporal layers in the decoder of a frozen autoencoder, so that video does not flicker [§3.1.1,
Table 8].

The encoder stays frozen and per frame: the latents, and so every diffusion model, stay as they are. The spatial layers
of the decoder stay, too: the file of the temporal layers belongs to one autoencoder, and at alpha = 1 that is back.
The discriminator is over space and time alone: an image discriminator beside it made the paper's video worse (FVD 32.94
to 51.01).

A thin decoder has spatial layers of its own, which are trained along; it may learn the pictures of a teacher, the
decoder that it stands in for, in the place of real ones.
"""

import numpy as np
import torch
from einops import rearrange
from torch import Tensor, nn

from drivesim.models.autoencoder import Autoencoder, split_moments
from drivesim.models.decoder import DecoderConfig, DecoderLayers, VideoDecoder
from drivesim.models.discriminator import VideoPatchDiscriminator
from drivesim.scene import to_pixels
from drivesim.training.autoencoder import Perceptual, Reconstruction, ReconstructionLoss, ReconstructionStage
from drivesim.training.loop import LoopConfig


class DecoderStage(ReconstructionStage):
    """Trains on clips: batch ``{"video": B T 3 H W}``; each frame through the encoder, all through the decoder.

    Logs ``flicker`` beside the loss. Step 1 shows the image decoder's, unless it is thin: the layers start as nothing.

    Args:
        teacher: a decoder of the same latents whose pictures are to be made; None: the clips' own.
    """

    autoencoder: Autoencoder
    teacher: DecoderLayers | None

    def __init__(
        self,
        autoencoder: Autoencoder,
        config: DecoderConfig,
        loss: ReconstructionLoss,
        loop: LoopConfig,
        perceptual: Perceptual | None = None,
        teacher: DecoderLayers | None = None,
    ):
        temporal = DecoderLayers(config, autoencoder)
        super().__init__(loss, loop, VideoPatchDiscriminator(loss.width) if loss.adversarial else None, perceptual)
        self.temporal = temporal
        frozen = autoencoder.eval().requires_grad_(False)
        self.__dict__["autoencoder"] = frozen  # not a submodule: it stays out of checkpoints and of EMA
        self.__dict__["teacher"] = teacher and teacher.eval().requires_grad_(False)

    @property
    def trained(self) -> nn.Module:
        return self.temporal

    @property
    def last(self) -> Tensor:
        return self.temporal.last_weight

    def forward(self, batch: dict[str, Tensor]) -> Reconstruction:
        x = batch["video"]
        z = self._encoded(x)
        y = VideoDecoder(self.autoencoder, self.temporal).decode(z).float()
        self.shown = x[:2].detach()
        return Reconstruction(x if self.teacher is None else self._taught(self.teacher.to(x.device), z), y)

    def facts(self, made: Reconstruction) -> dict[str, Tensor]:
        return {"flicker": flicker(made.x, made.y.detach())}

    @torch.no_grad()
    def _encoded(self, x: Tensor) -> Tensor:
        flat = rearrange(x, "b t c h w -> (b t) c h w")
        mean, _ = split_moments(self.autoencoder.to(x.device).encode(flat))
        # Clips are read with their channels last, which convolutions keep; torch 2.13 on a CPU crashes on the way back
        # through a group norm there whose input needs no gradient, as that of the first temporal layer.
        return rearrange(mean, "(b t) c h w -> b t c h w", t=x.shape[1]).contiguous()

    @torch.no_grad()
    def _taught(self, teacher: DecoderLayers, z: Tensor) -> Tensor:
        return VideoDecoder(self.autoencoder, teacher).decode(z).float()

    @torch.no_grad()
    def pictures(self) -> np.ndarray:
        """Real clips above, below them frame by frame through the image decoder, then with the temporal layers."""
        assert self.shown is not None
        z = self._encoded(self.shown)
        decoders = VideoDecoder(self.autoencoder), VideoDecoder(self.autoencoder, self.temporal)
        videos = [self.shown, *(decoder.decode(z) for decoder in decoders)]
        return np.concatenate([to_pixels(video) for video in videos])


def flicker(x: Tensor, y: Tensor) -> Tensor:
    """How much the error of ``y`` changes from frame to frame, mean over ``B T 3 H W`` in [-1, 1].

    An error that stands still is 0: it blurs or tints, but does not flicker.
    """
    return (y - x).diff(dim=1).abs().mean()
