"""Words as Stable Diffusion is told them, against transformers and diffusers on the same folder."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from drivesim.errors import Mistake
from drivesim.models.text import TextEncoder, identity

from . import public

PROMPTS = ["fog", "", "a red car at night, dense traffic"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("text") / "sd"
    public.pipeline(place)
    return place


def test_tokens_are_those_of_diffusers(folder: Path) -> None:
    from diffusers import StableDiffusionPipeline

    theirs = StableDiffusionPipeline.from_pretrained(str(folder), local_files_only=True)
    with torch.no_grad():
        wanted = torch.cat([theirs.encode_prompt(prompt, "cpu", 1, False)[0] for prompt in PROMPTS])
    ours = TextEncoder.load(folder)
    assert (ours.length, ours.width) == (77, 16)
    assert torch.equal(ours.tokens(PROMPTS), wanted)
    assert torch.equal(ours.tokens(PROMPTS[::-1]), wanted.flip(0))  # from memory


def test_saved_it_is_the_same_and_its_identity_knows_words_from_weights(folder: Path, tmp_path: Path) -> None:
    ours = TextEncoder.load(folder)
    ours.save(tmp_path / "text")
    again = TextEncoder.load(tmp_path / "text")
    assert torch.equal(again.tokens(PROMPTS), ours.tokens(PROMPTS))
    before = identity(tmp_path / "text")
    assert before == identity(tmp_path / "text")
    with open(tmp_path / "text" / "merges.txt", "a") as opened:
        opened.write("a b</w>\n")
    assert identity(tmp_path / "text") != before


def test_a_prompt_too_long_says_where_it_would_end(folder: Path) -> None:
    ours = TextEncoder.load(folder)
    fits = "a" * 75
    assert ours.ids([fits]).shape == (1, 77)
    with pytest.raises(
        Mistake, match=r"the prompt has 80 tokens, the text encoder reads 75\n  end it after '\.\.\.a+'"
    ):
        ours.ids(["fog", "a" * 80])


@pytest.mark.parametrize("missing", ["vocab.json", "merges.txt"])
def test_a_missing_tokenizer_file_is_named(folder: Path, tmp_path: Path, missing: str) -> None:
    shutil.copytree(folder, tmp_path / "sd")
    (tmp_path / "sd" / "tokenizer" / missing).unlink()
    with pytest.raises(Mistake, match=rf"the tokenizer's {missing} is missing"):
        TextEncoder.load(tmp_path / "sd")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda network: (network / "config.json").unlink(), "holds no text encoder"),
        (lambda network: (network / "model.safetensors").unlink(), "holds no model.safetensors"),
        (lambda network: _write(network, architectures=["T5EncoderModel"]), "'T5EncoderModel' is not read"),
        (lambda network: _write(network, hidden_size=32), "of another shape"),
        (lambda network: _write(network, num_attention_heads=3), "builds no text encoder"),
    ],
)
def test_what_is_no_text_encoder_is_a_mistake(folder: Path, tmp_path: Path, change, says: str) -> None:
    shutil.copytree(folder, tmp_path / "sd")
    change(tmp_path / "sd" / "text_encoder")
    with pytest.raises(Mistake, match=says):
        TextEncoder.load(tmp_path / "sd")


def test_no_such_folder(tmp_path: Path) -> None:
    with pytest.raises(Mistake, match="no such folder"):
        TextEncoder.load(tmp_path / "nowhere")


def _write(network: Path, **values: object) -> None:
    file = network / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))
