"""VideoMAE-v2's ViT-g as the content-debiased FVD has it [Ge 2024, cd-fvd 0.1.1; Wang 2023, VideoMAE V2].

Its features look more at motion and less at the content of single frames than I3D's logits do. The network is
transformers' (an extra, imported in functions alone); the weights are the public file of OpenGVLab, a pickle in its own
layout, which is read by ``weights_only`` and renamed.

Two things differ from what one would expect, and are kept since published scores were made so: frames go in as 0..1,
without ImageNet's mean and deviation, and the vector is the layer norm of the mean of all tokens, before the head.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn

from drivesim import pickled
from drivesim.errors import Mistake
from drivesim.metrics.features import check_prepared
from drivesim.metrics.published import Published, fit, verify
from drivesim.metrics.resize import RESIZES, SIZE

EPSILON = 1e-6  # of every layer norm; transformers' last one has 1e-5
KNOWN = {
    "vit_g_hybrid_pt_1200e_ssv2_ft.pth": Published(
        2_023_804_201,
        "5a210a92f035dff30c53b46157b612e7a1a5d3c99700e1b2d71da5c399ca7e70",
        "huggingface.co/OpenGVLab/VideoMAE2, mae-g (licence: see there)",
    )
}


@dataclass(frozen=True)
class VideoMAEConfig:
    """Shape of the network; the default is ViT-g of the public file.

    Args:
        patch: side of a patch in pixels, of 224.
        frames: of a clip, no more and no fewer.
        tubelet: frames of a token.
        width: of a token, and of the features.
        hidden: width inside a feed-forward.
        classes: of the head, which is in the file but not in the features.
    """

    patch: int = 14
    frames: int = 16
    tubelet: int = 2
    width: int = 1408
    depth: int = 40
    heads: int = 16
    hidden: int = 6144
    classes: int = 174


class VideoMAE:
    """The extractor of the content-debiased FVD; see ``features.Extractor``.

    Clips go through the network one by one: one is 2,048 tokens, which fill a device, and a product of matrices may
    round a row otherwise in another place of a batch.

    Args:
        file: one of ``KNOWN``, by its content.
        resize: a name of ``resize.RESIZES``; ``bilinear`` is the extractor's own, ``cdfvd`` has the data loader's
            steps before it.

    Raises:
        Mistake: transformers is not installed, no such file, none of ``KNOWN``, or not the tensors of ``config``.
    """

    name, size = "videomae", (SIZE, SIZE)

    def __init__(
        self,
        file: str | Path,
        device: str | torch.device = "cpu",
        resize: str = "bilinear",
        config: VideoMAEConfig = VideoMAEConfig(),
    ):
        network = build(config)
        self.sha = verify(Path(file), KNOWN)
        fill(network, pickled.read(file), file)
        self.dim, self.min_frames = config.width, config.frames
        self.device, self.prepare = torch.device(device), RESIZES[resize]
        self.network = network.to(self.device).eval().requires_grad_(False)

    @torch.inference_mode()
    def __call__(self, prepared: Tensor) -> Tensor:
        check_prepared(prepared, self.min_frames, self.size)
        if prepared.shape[1] != self.min_frames:
            raise ValueError(f"VideoMAE looks at {self.min_frames} frames, not at {prepared.shape[1]}")
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):  # TF32 has three digits
            return torch.cat([self._features(clip).cpu() for clip in prepared.split(1)])

    def _features(self, clip: Tensor) -> Tensor:
        """``1 T h w 3`` to ``1 d``."""
        x = rearrange(clip.to(self.device, torch.float32) / 255, "b t h w c -> b t c h w")
        return self.network.fc_norm(self.network.videomae(x).last_hidden_state.mean(1))


def build(config: VideoMAEConfig) -> Any:
    """transformers' network without values (on the meta device).

    Raises:
        Mistake: transformers is not installed.
    """
    try:
        import transformers
    except ImportError:
        raise Mistake("VideoMAE needs transformers", mend="pip install 'drivesim[videomae]'") from None
    shape = transformers.VideoMAEConfig(
        image_size=SIZE,
        patch_size=config.patch,
        num_frames=config.frames,
        tubelet_size=config.tubelet,
        hidden_size=config.width,
        num_hidden_layers=config.depth,
        num_attention_heads=config.heads,
        intermediate_size=config.hidden,
        layer_norm_eps=EPSILON,
    )
    shape.num_labels = config.classes
    with torch.device("meta"):
        network: Any = transformers.VideoMAEForVideoClassification(shape)
    network.fc_norm.eps = EPSILON
    return network


# --- weight files -----------------------------------------------------------------------------------------------------

# from transformers' names to the public ones, in this order
RENAMED = {
    "videomae.embeddings.patch_embeddings.projection": "patch_embed.proj",
    "videomae.encoder.layer.": "blocks.",
    "attention.attention.query.weight": "attn.qkv.weight",
    "attention.attention.key.weight": "attn.qkv.weight",
    "attention.attention.value.weight": "attn.qkv.weight",
    "attention.attention.query.bias": "attn.q_bias",
    "attention.attention.value.bias": "attn.v_bias",
    "attention.output.dense": "attn.proj",
    "intermediate.dense": "mlp.fc1",
    "output.dense": "mlp.fc2",
    "layernorm_before": "norm1",
    "layernorm_after": "norm2",
    "classifier": "head",
}


def places(network: nn.Module) -> dict[str, dict[str, torch.Size]]:
    """For each tensor of the public layout: the network's tensors that its rows go to, in order, with their shapes."""
    found: dict[str, dict[str, torch.Size]] = {}
    for name, tensor in network.state_dict().items():
        public = name
        for ours, theirs in RENAMED.items():
            public = public.replace(ours, theirs)
        found.setdefault(public, {})[name] = tensor.shape
    return found


def shapes(network: nn.Module) -> dict[str, tuple[int, ...]]:
    """What the public file must hold, by its names."""
    return {
        public: (sum(shape[0] for shape in parts.values()), *next(iter(parts.values()))[1:])
        for public, parts in places(network).items()
    }


def fill(network: nn.Module, tensors: Mapping[str, Tensor], where: object) -> None:
    """The tensors of the public file, whose names stand behind ``module.``, into ``network`` as float32.

    Raises:
        Mistake: tensors are missing, unknown or of another shape; they are named.
    """
    tensors = {name.removeprefix("module."): tensor for name, tensor in tensors.items()}
    fit(tensors, shapes(network), where)
    values: dict[str, Tensor] = {}
    for public, parts in places(network).items():
        rows = tensors[public].split([shape[0] for shape in parts.values()])
        values |= {name: part.float() for name, part in zip(parts, rows, strict=True)}
    network.load_state_dict(values, strict=True, assign=True)
