"""Words as Stable Diffusion is told them: CLIP's tokenizer and text encoder, from a folder in the public layout.

The networks are transformers' (the extra ``[text]``, imported in functions alone); what lies in the folder is read
here: ``config.json``, safetensors, and the tokenizer's ``vocab.json`` and ``merges.txt``. Nothing is downloaded or run.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from drivesim import disk, weights
from drivesim.errors import Mistake

FOLDER = "text"  # beside the weights that were trained with it
TOKENIZER = ("vocab.json", "merges.txt")
FURTHER = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
STEM = "model"
MOST_KNOWN = 1024  # prompts whose tokens are kept: a quarter of a megabyte each
SHAPE = {  # of CLIP's text encoder; what else its config.json says changes nothing in evaluation
    "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
    "max_position_embeddings", "hidden_act", "layer_norm_eps", "projection_dim",
    "bos_token_id", "eos_token_id", "pad_token_id",
}  # fmt: skip


class TextEncoder(nn.Module):
    """Prompts to tokens for the cross-attention: CLIP's last hidden states behind its final norm.

    ``forward(ids B L) -> B L D``. Frozen unless it is trained on purpose (personalised backbones).

    Attributes:
        length: L, tokens of a prompt, padding included. width: D.
    """

    def __init__(self, network: nn.Module, tokenizer: Any, where: Path):
        super().__init__()
        self.network, self.where = network, where
        self.tokenizer: Any = tokenizer
        config: Any = network.config
        self.length, self.width = int(config.max_position_embeddings), int(config.hidden_size)
        self._known: dict[tuple[str, bool], Tensor] = {}

    @classmethod
    def load(cls, folder: str | Path) -> "TextEncoder":
        """From a folder that holds both network and tokenizer, or a pipeline's ``text_encoder`` and ``tokenizer``.

        Raises:
            Mistake: transformers is not installed, a file is missing, or is not CLIP's.
        """
        network, tokenizer = places(Path(folder))
        words = tokenizer_of(tokenizer)
        from transformers import CLIPTextConfig, CLIPTextModel

        values = weights.settings(network)
        found = values.get("architectures") or ["unnamed"]
        if found[0] not in ("CLIPTextModel", "CLIPTextModelWithProjection"):
            raise Mistake(f"the text encoder '{found[0]}' is not read", where=network, mend="known: CLIPTextModel")
        try:
            model = CLIPTextModel(CLIPTextConfig(**{key: values[key] for key in SHAPE if key in values}))
        except Exception as problem:  # transformers has errors of its own kinds
            what = " ".join(str(problem).split())[:120]
            raise Mistake(f"builds no text encoder ({what})", where=network / "config.json") from None
        wanted = model.state_dict()
        tensors = {_own(name): tensor.float() for name, tensor in weights.read(weights.public(network, STEM))}
        weights.fill(
            model, {name: tensor for name, tensor in tensors.items() if name in wanted or not _spare(name)}, network
        )
        return cls(model.eval().requires_grad_(False), words, network)

    def save(self, folder: Path) -> None:
        """Network and tokenizer in the public layout, which ``load`` and diffusers' pipelines read."""
        held = {name: value.detach().cpu() for name, value in self.network.state_dict().items()}
        folder.mkdir(parents=True, exist_ok=True)
        source = places(self.where)
        disk.copy_atomic(source[0] / "config.json", folder / "config.json")
        weights.save_public(folder / f"{STEM}.safetensors", {f"text_model.{name}": held[name] for name in held})
        for name in (*TOKENIZER, *FURTHER):
            if (file := source[1] / name).is_file():
                disk.copy_atomic(file, folder / name)

    def ids(self, prompts: Sequence[str], cut: bool = False) -> Tensor:
        """``B L`` long, padded.

        Args:
            cut: a prompt that is longer than the encoder reads is cut off, as captions of other people's clips are.

        Raises:
            Mistake: a prompt is longer than the encoder reads; it says where it would be cut off.
        """
        for prompt in () if cut else prompts:
            held = self.tokenizer(prompt, add_special_tokens=False)["input_ids"]
            if len(held) > self.length - 2:
                kept = self.tokenizer.decode(held[: self.length - 2])
                what = f"the prompt has {len(held)} tokens, the text encoder reads {self.length - 2}"
                raise Mistake(what, field="prompt", mend=f"end it after '...{kept[-40:].strip()}'")
        found = self.tokenizer(
            list(prompts), padding="max_length", truncation=cut, max_length=self.length, return_tensors="pt"
        )
        return found["input_ids"]

    def fits(self, prompt: str) -> bool:
        """Whether the encoder reads all of it."""
        return len(self.tokenizer(prompt, add_special_tokens=False)["input_ids"]) <= self.length - 2

    def forward(self, ids: Tensor) -> Tensor:
        device = next(self.network.parameters()).device
        return self.network(ids.to(device))[0]

    def tokens(self, prompts: Sequence[str], cut: bool = False) -> Tensor:
        """``B L D`` without gradients; every prompt is encoded by itself, and remembered; ``cut`` as of ``ids``."""
        for prompt in prompts:
            if (prompt, cut) not in self._known:
                with torch.inference_mode(False), torch.no_grad():
                    self._known[prompt, cut] = self(self.ids([prompt], cut))[0]
        found = torch.stack([self._known[prompt, cut] for prompt in prompts])
        while len(self._known) > MOST_KNOWN:
            self._known.pop(next(iter(self._known)))
        return found


def places(folder: Path) -> tuple[Path, Path]:
    """The folders of the network and of the tokenizer: ``folder`` itself, or parts of a pipeline.

    Raises:
        Mistake: a file that must be there is not, by name.
    """
    network = folder / "text_encoder" if (folder / "text_encoder").is_dir() else folder
    beside = network.parent / "tokenizer"
    tokenizer = beside if network.name == "text_encoder" and beside.is_dir() else network
    if not (network / "config.json").is_file():
        what = "holds no text encoder" if folder.is_dir() else "no such folder"
        raise Mistake(what, where=folder, mend="text_encoder/ and tokenizer/ of the pipeline are needed")
    _check_tokenizer(tokenizer)
    return network, tokenizer


def tokenizer_of(folder: Path) -> Any:
    """CLIP's tokenizer, as transformers has it.

    Raises:
        Mistake: transformers is not installed, a file is missing, or is not CLIP's.
    """
    try:
        from transformers import CLIPTokenizer
    except ImportError:
        mend = "pip install 'drivesim[text]'"
        raise Mistake("words need transformers, which is not installed", where=folder, mend=mend) from None
    _check_tokenizer(folder)
    try:
        return CLIPTokenizer.from_pretrained(str(folder), local_files_only=True)
    except (OSError, ValueError, KeyError, TypeError) as problem:
        what = " ".join(str(problem).split())[:120]
        raise Mistake(f"is no tokenizer of CLIP ({what})", where=folder) from None


def _check_tokenizer(folder: Path) -> None:
    for name in TOKENIZER:
        if not (folder / name).is_file():
            raise Mistake(f"the tokenizer's {name} is missing", where=folder, mend="copy it from the model's page")


def identity(folder: Path) -> str:
    """Of both, as a parent's hash in a weight file's header: of the network's tensors and the tokenizer's files."""
    from drivesim.config import digest

    network, tokenizer = places(folder)
    files = [*weights.public(network, STEM), *(tokenizer / name for name in TOKENIZER)]
    return digest([disk.sha256(file) for file in files])


def _own(name: str) -> str:
    return name.removeprefix("text_model.")


def _spare(name: str) -> bool:
    """Old files keep places, and some a projection that Stable Diffusion does not use."""
    return name.endswith("position_ids") or name.startswith("text_projection")
