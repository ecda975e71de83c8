"""Stages that are told words: what reaches the network, what is trained, and that it learns."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from drivesim.diffusion.loss import LossConfig
from drivesim.diffusion.noise import ScheduleConfig
from drivesim.errors import Mistake
from drivesim.models.autoencoder import Autoencoder
from drivesim.models.temporal import TemporalConfig
from drivesim.models.text import TextEncoder
from drivesim.models.unet import UNetConfig
from drivesim.models.video import ImageModel
from drivesim.scene import Condition
from drivesim.training.checkpoints import latest
from drivesim.training.diffusion import Conditions, ContextConfig, ImageStage, KeyframeStage, Latents
from drivesim.training.interpolation import EndsConfig, InterpolationStage, widened
from drivesim.training.loop import LoopConfig, train
from drivesim.training.subject import SubjectConfig, SubjectStage
from tests.models import public

from . import tiny

UNET = UNetConfig(channels=(16, 16), blocks=1, attention=(False, True), head_channels=8, cross=8, text=True, groups=4)
TEMPORAL = TemporalConfig(frames=4, alpha="scalar", depth=1, head_channels=8, cross=8, context_channels=0)
WHOLE = replace(TEMPORAL, frames=5, told=("rate", "level"))
SCHEDULE = ScheduleConfig(target="eps")
CAPTIONS = ["fog", "a red car at night", "", "rain"]
SUBJECT = SubjectConfig("pictures", "sks car", "car", class_pictures=2, prior=0.5, size=(32, 64), steps=3)
LOOP = tiny.loop(steps=40, batch=4)
STAGES = ["image", "keyframes", "interpolation", "subject"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A text encoder 8 wide, of two layers."""
    place = tmp_path_factory.mktemp("words")
    public.tokenizer(place / "tokenizer")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        public.text_encoder(8).save_pretrained(place / "text_encoder")
    return place


def made(name: str, folder: Path, loop: LoopConfig = LOOP, *, text: bool = True, drop: float = 0.1) -> Any:
    """A stage with the same initial weights every time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(11)
        latents = Latents(torch.zeros(4), torch.ones(4), Autoencoder(tiny.AUTOENCODER))
        told = Conditions(drop, text=TextEncoder.load(folder))
        image, rest = ImageModel(UNET), (SCHEDULE, LossConfig(), loop, told)
        if name == "subject":
            return SubjectStage(image, latents, replace(SUBJECT, text=text), *rest)
        if name == "keyframes":
            return KeyframeStage(image, latents, TEMPORAL, ContextConfig((1.0, 0.0, 0.0), 0.0), *rest)
        if name == "interpolation":
            return InterpolationStage(widened(image), latents, WHOLE, EndsConfig(levels=250), *rest, whole=True)
        return ImageStage(image, latents, *rest)


class Memory(tiny.Memory):
    """With captions."""

    def __getitem__(self, sample: int) -> dict[str, Any]:
        item: dict[str, Any] = super().__getitem__(sample)
        return {**item, "caption": CAPTIONS[sample % len(CAPTIONS)]}


def memory(name: str, loop: LoopConfig, **more: Any) -> Memory:
    return Memory("image" if name == "subject" else name, loop, **more)


def batch(name: str) -> dict[str, Any]:
    return next(iter(memory(name, LOOP).train_dataloader()))


def losses(out: Path) -> tuple[float, float]:
    """The first and the last."""
    rows = (out / "metrics.csv").read_text().splitlines()[1:]
    return float(rows[0].split(",")[-1]), float(rows[-1].split(",")[-1])


@pytest.mark.parametrize("name", STAGES)
def test_one_repeated_batch_makes_the_loss_fall(name: str, folder: Path, tmp_path: Path) -> None:
    stage = made(name, folder)
    frozen = {key: value.clone() for key, value in stage.text.state_dict().items()}
    train(stage, memory(name, LOOP, repeat=True), name, tmp_path, "cpu")
    first, last = losses(tmp_path)
    assert last < 0.9 * first
    assert (tmp_path / "samples" / "step-00000040.png").is_file()
    same = all(torch.equal(value, frozen[key]) for key, value in stage.text.state_dict().items())
    assert same == (name != "subject")  # bit-equal, or trained along


@pytest.mark.parametrize("name", ["image", "subject"])
def test_resumed_is_uninterrupted(name: str, folder: Path, tmp_path: Path) -> None:
    loop = tiny.loop(steps=6, batch=4, ema=0.9, checkpoint_every=3)
    one, two = made(name, folder, loop), made(name, folder, loop)
    train(one, memory(name, loop), name, tmp_path, "cpu")
    latest(tmp_path).unlink()
    train(two, memory(name, loop, start_step=3), name, tmp_path, "cpu", latest(tmp_path))
    held, again = one.state_dict(), two.state_dict()
    assert held.keys() == again.keys() and all(torch.equal(held[key], again[key]) for key in held)
    assert any(key.startswith("text.") for key in held) == (name == "subject")


@pytest.mark.parametrize("name", STAGES)
def test_dropped_is_the_empty_prompt(name: str, folder: Path) -> None:
    found, samples = batch(name), list(range(4))
    always, never = made(name, folder, drop=1.0), made(name, folder, drop=0.0)
    nothing = never._tokens({**found, "caption": [""] * 4}, None)
    assert torch.equal(always._tokens(found, samples), nothing)
    told = never._tokens(found, samples)
    assert torch.equal(told, never._tokens(found, None)) and torch.equal(told[2], nothing[2])
    assert not torch.equal(told[0], nothing[0]) and told.shape == (4, 77, 8)
    some = made(name, folder, drop=0.5)._tokens({**found, "caption": ["fog"] * 400, "sample": torch.arange(400)},
                                                list(range(400)))  # fmt: skip
    assert 0.4 < float((some == nothing[0]).all(dim=(1, 2)).float().mean()) < 0.6


@pytest.mark.parametrize("name", STAGES)
def test_the_prompt_changes_the_prediction(name: str, folder: Path) -> None:
    stage, found = made(name, folder), batch(name)
    for parameter in stage.image.parameters():  # output layers that start at zero say nothing yet
        parameter.data += 0.05
    z, noise = found["moments"][:, :, :4], torch.full(found["moments"].shape[:2], 500.0)
    outputs = []
    with torch.no_grad():
        for caption in ("fog", "rain"):
            tokens = stage._tokens({**found, "caption": [caption] * 4}, None)
            condition = Condition(tokens, fps=found["fps"], context_level=torch.zeros(z.shape[:2]))
            outputs.append(stage.network(z, noise, condition))
    assert not torch.allclose(outputs[0], outputs[1], atol=1e-4)


def test_temporal_layers_see_the_words(folder: Path) -> None:
    """The spatial tokens held fixed, those of the temporal cross-attention alone changed."""
    stage, found = made("keyframes", folder), batch("keyframes")
    for parameter in stage.temporal.parameters():
        parameter.data += 0.05
    z, noise = found["moments"][:, :, :4], torch.full((4, 4), 500.0)
    fog, rain = (stage._tokens({**found, "caption": [caption] * 4}, None) for caption in ("fog", "rain"))
    with torch.no_grad():
        alike = stage.network(z, noise, Condition(tokens=fog, temporal_tokens=fog))
        assert torch.equal(stage.network(z, noise, Condition(tokens=fog)), alike)
        assert not torch.allclose(stage.network(z, noise, Condition(tokens=fog, temporal_tokens=rain)), alike)


def test_what_is_new_at_the_input_starts_as_nothing(folder: Path) -> None:
    image = ImageModel(UNET)
    wide = widened(image)
    assert wide.unet.config.in_channels == 9 and not wide.unet.conv_in.weight[:, 4:].any()
    x, level, tokens = torch.randn(3, 4, 4, 8), torch.full((3,), 200.0), torch.randn(3, 77, 8)
    with torch.no_grad():
        wanted = image.unet(x, level, tokens)
        found = wide.unet(torch.cat([x, torch.randn(3, 5, 4, 8)], dim=1), level, tokens)
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("more", [{"patch": 2}, {"joined": ("context",), "in_channels": 8}])
def test_what_cannot_be_widened(more: dict[str, Any]) -> None:
    with pytest.raises(Mistake, match="sees its latents alone"):
        widened(ImageModel(replace(UNET, **more)))


def test_all_parameters_of_the_whole_are_trained_and_named_as_it_is_read(folder: Path, tmp_path: Path) -> None:
    loop = tiny.loop(steps=3, batch=4)
    stage = made("interpolation", folder, loop)
    before = {key: value.clone() for key, value in stage.trained.state_dict().items()}
    train(stage, memory("interpolation", loop), "interpolation", tmp_path, "cpu")
    held = [p for group in stage.trainer.optimizers[0].param_groups for p in group["params"]]
    assert {id(p) for p in held} == {id(p) for p in stage.trained.parameters()}
    after = stage.trained.state_dict()
    assert {key.split(".")[0] for key in after} == {"image", "temporal"}
    assert not torch.equal(after["image.unet.conv_in.weight"], before["image.unet.conv_in.weight"])


def test_ends_are_noised_by_levels_of_the_schedule(folder: Path) -> None:
    stage = made("interpolation", folder)
    sigmas = stage.schedule.sigmas.float()
    ends = stage._amount(torch.tensor([0.0, 0.99 / 251, 1.0 / 251 + 1e-5, 1 - 1e-7]))
    torch.testing.assert_close(ends, torch.tensor([0.0, 0.0, float(sigmas[0]), float(sigmas[249])]))
    found = batch("interpolation")
    z = found["moments"][:, :, :4]
    condition, predicted = stage._condition(found, z, list(range(4)))
    assert set(condition.context_level[condition.context_mask == 1].tolist()) <= {0.0, *sigmas[:250].tolist()}
    added = (condition.context - z)[:, [0, -1]].std(dim=(1, 2, 3, 4))
    told = condition.context_level[:, 0]
    given = condition.context_mask[:, 0] == 1
    assert bool(given.any()) and torch.all((added / told - 1).abs()[given] < 0.3)
    assert torch.equal(predicted, condition.context_mask == 0)


def test_half_is_the_subject_and_half_its_class(folder: Path) -> None:
    stage = made("subject", folder)
    per_sample = torch.tensor([1.0, 10.0, 3.0, 30.0])
    assert float(stage._total(per_sample, [4, 5, 6, 7])) == pytest.approx(2 + 0.5 * 20)
    parts = [float(stage._total(per_sample[n : n + 1], [4 + n])) for n in range(4)]
    assert sum(parts) / 4 == pytest.approx(2 + 0.5 * 20), "the mean over parts is that of the whole"
    assert [float(stage._total(per_sample[:1], [n])) for n in (4, 5)] == [2.0, 2 * 0.5], "as of a batch of two halves"


def test_a_class_picture_is_a_function_of_seed_and_number(folder: Path) -> None:
    stage = made("subject", folder).eval()
    one = stage.class_picture(1, (4, 8))
    assert one.shape == (4 * tiny.AUTOENCODER.f, 8 * tiny.AUTOENCODER.f, 3)
    assert (one == stage.class_picture(1, (4, 8))).all()
    assert (one != stage.class_picture(2, (4, 8))).any()
    other = made("subject", folder, replace(LOOP, seed=9)).eval()
    assert (one != other.class_picture(1, (4, 8))).any()
    assert not stage.text._known  # a text encoder that is trained remembers nothing of before


def test_the_memory_of_prompts_ends(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("drivesim.models.text.MOST_KNOWN", 3)
    words = TextEncoder.load(folder)
    wanted: Tensor = torch.cat([words.tokens([c * 3]) for c in "abcde"])
    assert [prompt for prompt, _ in words._known] == ["ccc", "ddd", "eee"]
    assert torch.equal(words.tokens([c * 3 for c in "abcde"]), wanted)
