"""Makes a small pipeline in the public layout from nothing, so that text to video can be trained from scratch.

    python tools/make_backbone.py runs/index runs/autoencoder/weights/autoencoder.safetensors --out runs/pipeline
    drivesim weights convert runs/pipeline --out runs/backbone

The autoencoder is one that was trained; U-Net and text encoder have random weights. The words of the index's captions,
and those of --also, become a token each; of other words every letter is one. The text encoder needs no training to tell
words apart: distinct words have distinct random embeddings, and the image model learns what they show.

diffusers and transformers write the files, as public ones are written (the extra ``[test]``).
"""

import argparse
import json
import math
import re
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from drivesim import weights
from drivesim.data.index import Index
from drivesim.errors import Mistake
from drivesim.models.autoencoder import Autoencoder

CHANNELS, ATTENTION, HEAD, GROUPS = (64, 96, 128), (False, True, True), 32, 16  # of the U-Net
WIDTH, LAYERS, HEADS, LENGTH = 64, 2, 4, 24  # of the text encoder
BEGIN, END = "<|startoftext|>", "<|endoftext|>"
LAST = "</w>"  # marks the last piece of a word
ALSO = "a photo of sks car"


def make(captions: Iterable[str], autoencoder: Path, out: Path, seed: int = 0) -> list[str]:
    """Writes the pipeline into the folder ``out``; returns the words that are a token each.

    Raises:
        Mistake: ``out`` is there, or the autoencoder has no counterpart in the public layout.
    """
    from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    if out.exists():
        raise Mistake("is there already", where=out, mend="choose another --out")
    vae = AutoencoderKL(**_vae(autoencoder))
    vae.load_state_dict(Autoencoder.load(autoencoder).state_dict())
    words = sorted({word for caption in captions for word in re.findall("[a-z]+", caption.lower())})
    vocabulary = write_tokenizer(out / "tokenizer", words)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        text_encoder = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(vocabulary), hidden_size=WIDTH, intermediate_size=4 * WIDTH, num_hidden_layers=LAYERS,
                num_attention_heads=HEADS, max_position_embeddings=LENGTH, bos_token_id=vocabulary[BEGIN],
                eos_token_id=vocabulary[END], pad_token_id=vocabulary[END],
            )
        )  # fmt: skip
        # CLIP's own 0.02 is for a training of billions of words: what all words share would soon outweigh what differs
        embeddings = text_encoder.get_input_embeddings()
        assert isinstance(embeddings, torch.nn.Embedding)
        torch.nn.init.normal_(embeddings.weight)
        unet = UNet2DConditionModel(
            sample_size=16, block_out_channels=CHANNELS, layers_per_block=1, cross_attention_dim=WIDTH,
            attention_head_dim=tuple(width // HEAD for width in CHANNELS), norm_num_groups=GROUPS,
            in_channels=vae.config.latent_channels, out_channels=vae.config.latent_channels,
            down_block_types=tuple("CrossAttnDownBlock2D" if has else "DownBlock2D" for has in ATTENTION),
            up_block_types=tuple("CrossAttnUpBlock2D" if has else "UpBlock2D" for has in reversed(ATTENTION)),
        )  # fmt: skip
    pipeline = StableDiffusionPipeline(
        vae=vae, text_encoder=text_encoder, unet=unet,
        tokenizer=CLIPTokenizer.from_pretrained(str(out / "tokenizer"), local_files_only=True),
        # betas that end in pure noise: Stable Diffusion's would leave the layout visible in latents this small
        scheduler=DDIMScheduler(
            beta_schedule="squaredcos_cap_v2", prediction_type="v_prediction", clip_sample=False, steps_offset=1
        ),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    pipeline.save_pretrained(out)
    return words


def _vae(file: Path) -> dict[str, Any]:
    """What diffusers' ``AutoencoderKL`` is made with to be the autoencoder in ``file``."""
    header = weights.header(file, "autoencoder")
    own, levels = Autoencoder.load(file).config, range(len(header.config["channels"]))
    if own.patch > 1 or own.regularizer != "kl" or own.level_attention:
        what = "the public layout has no autoencoder that folds pixels, has a codebook or attention at its levels"
        raise Mistake(what, where=file, mend="train one with configs/text-tiny/autoencoder.yaml")
    spread = [math.hypot(mean, std) for mean, std in zip(header.latent["mean"], header.latent["std"], strict=True)]
    return {
        "block_out_channels": own.channels,
        "layers_per_block": own.blocks,
        "latent_channels": own.latent,
        "norm_num_groups": own.groups,
        "mid_block_add_attention": own.attention,
        "down_block_types": ("DownEncoderBlock2D",) * len(levels),
        "up_block_types": ("UpDecoderBlock2D",) * len(levels),
        "scaling_factor": len(spread) / sum(spread),  # the layout has one number for all channels, and no mean
    }


def write_tokenizer(folder: Path, words: Iterable[str]) -> dict[str, int]:
    """CLIP's tokenizer whose merges make one token of each of ``words``; its vocabulary is returned."""
    from tokenizers.pre_tokenizers import ByteLevel

    bytes_ = sorted(ByteLevel.alphabet())
    merges: dict[tuple[str, str], int] = {}
    for word in words:
        pieces = _merged(word, merges)
        while len(pieces) > 1:  # merges that come later take nothing from words whose merges came before
            merges[pieces[0], pieces[1]] = len(merges)
            pieces = [pieces[0] + pieces[1], *pieces[2:]]
    names = [*bytes_, *(byte + LAST for byte in bytes_), *dict.fromkeys(a + b for a, b in merges), BEGIN, END]
    vocabulary = {name: number for number, name in enumerate(names)}
    folder.mkdir(parents=True)
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False), encoding="utf-8")
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges), ""]
    (folder / "merges.txt").write_text("\n".join(lines), encoding="utf-8")
    about = {
        "tokenizer_class": "CLIPTokenizer", "model_max_length": LENGTH,
        "bos_token": BEGIN, "eos_token": END, "unk_token": END, "pad_token": END,
    }  # fmt: skip
    (folder / "tokenizer_config.json").write_text(json.dumps(about), encoding="utf-8")
    return vocabulary


def _merged(word: str, merges: dict[tuple[str, str], int]) -> list[str]:
    """The pieces that ``merges``, the earliest first, leave of a word."""
    pieces = [*word[:-1], word[-1] + LAST]
    while len(pieces) > 1:
        pairs = list(pairwise(pieces))
        best = min(pairs, key=lambda pair: merges.get(pair, len(merges)))
        if best not in merges:
            break
        place = pairs.index(best)
        pieces[place : place + 2] = ["".join(best)]
    return pieces


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("index", type=Path, help="folder that 'drivesim index' wrote, with captions")
    parser.add_argument("autoencoder", type=Path, help="weights of a KL autoencoder without patch")
    parser.add_argument("--also", default=ALSO, help=f"further words (default '{ALSO}')")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/pipeline"))
    options = parser.parse_args()
    captions = [entry.caption for entry in Index.open(options.index).entries if entry.caption]
    try:
        words = make([*captions, options.also], options.autoencoder, options.out, options.seed)
    except Mistake as mistake:
        parser.exit(2, f"{mistake}\n")
    print(f"{options.out}: {len(words)} words are a token each: {' '.join(words)}")


if __name__ == "__main__":
    main()
