"""The public models' ``config.json`` values, and small ones of the same make, for the tests of several files."""

import json
from pathlib import Path
from typing import Any

import torch

SD1: dict[str, Any] = {
    "_class_name": "UNet2DConditionModel",
    "_diffusers_version": "0.2.2",
    "act_fn": "silu",
    "attention_head_dim": 8,
    "block_out_channels": [320, 640, 1280, 1280],
    "center_input_sample": False,
    "cross_attention_dim": 768,
    "down_block_types": ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
    "downsample_padding": 1,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "in_channels": 4,
    "layers_per_block": 2,
    "mid_block_scale_factor": 1,
    "norm_eps": 1e-05,
    "norm_num_groups": 32,
    "out_channels": 4,
    "sample_size": 64,
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"],
}
SD2: dict[str, Any] = {
    **SD1,
    "attention_head_dim": [5, 10, 20, 20],
    "cross_attention_dim": 1024,
    "dual_cross_attention": False,
    "only_cross_attention": False,
    "num_class_embeds": None,
    "sample_size": 96,
    "upcast_attention": True,
    "use_linear_projection": True,
}
X4: dict[str, Any] = {
    **SD1,
    "block_out_channels": [256, 512, 512, 1024],
    "class_embed_type": None,
    "cross_attention_dim": 1024,
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "in_channels": 7,
    "mid_block_type": "UNetMidBlock2DCrossAttn",
    "num_class_embeds": 1000,
    "only_cross_attention": [True, True, True, False],
    "resnet_time_scale_shift": "default",
    "sample_size": 128,
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
    "use_linear_projection": True,
}
SVD: dict[str, Any] = {
    "_class_name": "UNetSpatioTemporalConditionModel",
    "addition_time_embed_dim": 256,
    "block_out_channels": [320, 640, 1280, 1280],
    "cross_attention_dim": 1024,
    "down_block_types": [*["CrossAttnDownBlockSpatioTemporal"] * 3, "DownBlockSpatioTemporal"],
    "in_channels": 8,
    "layers_per_block": 2,
    "num_attention_heads": [5, 10, 20, 20],
    "num_frames": 25,
    "out_channels": 4,
    "projection_class_embeddings_input_dim": 768,
    "sample_size": 96,
    "transformer_layers_per_block": 1,
    "up_block_types": ["UpBlockSpatioTemporal", *["CrossAttnUpBlockSpatioTemporal"] * 3],
}
VAE: dict[str, Any] = {
    "_class_name": "AutoencoderKL",
    "act_fn": "silu",
    "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "in_channels": 3,
    "latent_channels": 4,
    "layers_per_block": 2,
    "norm_num_groups": 32,
    "out_channels": 3,
    "sample_size": 512,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
}
X4_VAE: dict[str, Any] = {
    **VAE,
    "block_out_channels": [128, 256, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 3,
    "scaling_factor": 0.08333,
    "up_block_types": ["UpDecoderBlock2D"] * 3,
}
SVD_VAE: dict[str, Any] = {
    "_class_name": "AutoencoderKLTemporalDecoder",
    "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "force_upcast": True,
    "in_channels": 3,
    "latent_channels": 4,
    "layers_per_block": 2,
    "out_channels": 3,
    "sample_size": 768,
    "scaling_factor": 0.18215,
}

# Of the same make, small: two levels, one of them with attention.
SMALL: dict[str, dict[str, Any]] = {
    "sd1": {
        **SD1,
        "attention_head_dim": 2,
        "block_out_channels": [32, 64],
        "cross_attention_dim": 16,
        "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
        "norm_num_groups": 8,
        "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
    },
    "sd2": {
        **SD2,
        "attention_head_dim": [2, 4],
        "block_out_channels": [32, 64],
        "cross_attention_dim": 24,
        "down_block_types": ["CrossAttnDownBlock2D"] * 2,
        "layers_per_block": 1,
        "up_block_types": ["CrossAttnUpBlock2D"] * 2,
    },
    "x4": {
        **X4,
        "attention_head_dim": 4,
        "block_out_channels": [32, 64, 64],
        "cross_attention_dim": 24,
        "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
        "only_cross_attention": [True, True, False],
        "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
    },
    "svd": {
        **SVD,
        "block_out_channels": [32, 64],
        "cross_attention_dim": 24,
        "down_block_types": ["CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"],
        "layers_per_block": 1,
        "num_attention_heads": [2, 4],
        "up_block_types": ["UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"],
    },
    "vae": {
        **VAE,
        "block_out_channels": [16, 32, 32],
        "down_block_types": ["DownEncoderBlock2D"] * 3,
        "norm_num_groups": 8,
        "up_block_types": ["UpDecoderBlock2D"] * 3,
    },
    "svd_vae": {**SVD_VAE, "block_out_channels": [32, 64], "down_block_types": ["DownEncoderBlock2D"] * 2},
}
FULL = {"sd1": SD1, "sd2": SD2, "x4": X4, "svd": SVD, "vae": VAE, "x4_vae": X4_VAE, "svd_vae": SVD_VAE}


def theirs(values: dict[str, Any]) -> Any:
    """diffusers' own model, random weights from a seed (on whatever device is the default)."""
    import diffusers
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = getattr(diffusers, values["_class_name"]).from_config(values).eval()
        for name, parameter in model.named_parameters():
            if name.endswith("mix_factor"):  # not where it starts: a sign that is turned must show
                parameter.data.uniform_(-2.0, 2.0)
    return model.requires_grad_(False)


# --- a pipeline of five folders, as Stable Diffusion's is published ---------------------------------------------------

LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789.,'-"


def tokenizer(folder: Path) -> None:
    """CLIP's, of letters alone: a word of n letters is n tokens, the last of which ends it."""
    folder.mkdir(parents=True)
    words = [*LETTERS, *(f"{letter}</w>" for letter in LETTERS), "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({word: n for n, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    about = {"model_max_length": 77, "pad_token": "<|endoftext|>", "tokenizer_class": "CLIPTokenizer"}
    (folder / "tokenizer_config.json").write_text(json.dumps(about))


def text_encoder(width: int = 16) -> Any:
    from transformers import CLIPTextConfig, CLIPTextModel

    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=2 * len(LETTERS) + 2, hidden_size=width, intermediate_size=2 * width, num_hidden_layers=2,
            num_attention_heads=2, bos_token_id=2 * len(LETTERS), eos_token_id=2 * len(LETTERS) + 1,
        )
    ).eval()  # fmt: skip


def pipeline(folder: Path, seed: int = 0, width: int = 16) -> Any:
    """Random weights of every part in ``folder``, in the real layout; diffusers' own pipeline is returned."""
    from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTokenizer

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        tokenizer(folder / "tokenizer")
        unet = UNet2DConditionModel(
            sample_size=8, block_out_channels=(16, 32), layers_per_block=1, cross_attention_dim=width,
            attention_head_dim=2, norm_num_groups=8,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        )  # fmt: skip
        vae = AutoencoderKL(
            block_out_channels=(8, 8, 8, 16), layers_per_block=1, norm_num_groups=4, latent_channels=4,
            down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
        )  # fmt: skip
        pipe = StableDiffusionPipeline(
            vae=vae, text_encoder=text_encoder(width), unet=unet,
            tokenizer=CLIPTokenizer.from_pretrained(str(folder / "tokenizer"), local_files_only=True),
            scheduler=DDIMScheduler(
                beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, steps_offset=1,
                set_alpha_to_one=True,
            ),
            safety_checker=None, feature_extractor=None, requires_safety_checker=False,
        )  # fmt: skip
    pipe.save_pretrained(folder)
    return pipe


def upscaler(folder: Path, seed: int = 0, width: int = 16, levels: int = 400) -> Any:
    """The same of Stable Diffusion's x4 upscaler, with its own schedules and a table of ``levels`` noise levels."""
    from diffusers import (
        AutoencoderKL,
        DDIMScheduler,
        DDPMScheduler,
        StableDiffusionUpscalePipeline,
        UNet2DConditionModel,
    )
    from transformers import CLIPTokenizer

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        tokenizer(folder / "tokenizer")
        unet = UNet2DConditionModel(
            sample_size=16, in_channels=7, block_out_channels=(16, 32), layers_per_block=1, cross_attention_dim=width,
            attention_head_dim=2, norm_num_groups=8, num_class_embeds=levels, use_linear_projection=True,
            only_cross_attention=(True, False), down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        )  # fmt: skip
        vae = AutoencoderKL(
            block_out_channels=(8, 8, 16), layers_per_block=1, norm_num_groups=4, latent_channels=4,
            down_block_types=("DownEncoderBlock2D",) * 3, up_block_types=("UpDecoderBlock2D",) * 3,
            scaling_factor=0.08333,
        )  # fmt: skip
        betas = {"beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "scaled_linear"}
        pipe = StableDiffusionUpscalePipeline(
            vae=vae, text_encoder=text_encoder(width), unet=unet,
            tokenizer=CLIPTokenizer.from_pretrained(str(folder / "tokenizer"), local_files_only=True),
            low_res_scheduler=DDPMScheduler(**{**betas, "beta_end": 0.03}),  # another: a mix-up must show
            scheduler=DDIMScheduler(
                **betas, prediction_type="v_prediction", clip_sample=False, steps_offset=1, set_alpha_to_one=True
            ),
        )  # fmt: skip
    pipe.save_pretrained(folder)
    return pipe


def clip(folder: Path, seed: int = 0) -> Any:
    """A tiny CLIP with random weights in ``folder``, as transformers saves it, with tokenizer and image processor."""
    from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel

    words = {
        "vocab_size": 2 * len(LETTERS) + 2, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2,
        "num_attention_heads": 2, "bos_token_id": 2 * len(LETTERS), "eos_token_id": 2 * len(LETTERS) + 1,
    }  # fmt: skip
    vision = {
        "hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
        "image_size": 32, "patch_size": 8,
    }  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        tokenizer(folder)
        config = CLIPConfig(text_config=words, vision_config=vision, projection_dim=12)
        model = CLIPModel(config).eval().requires_grad_(False)
        for parameter in model.parameters():  # else everything looks alike to it
            parameter.data += 0.2 * torch.randn_like(parameter)
    model.save_pretrained(folder)
    CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(folder)
    return model
