"""Training with words, from a public pipeline of a few thousand weights: an index with captions to weights that are
told words, a subject learned from pictures; and what is refused."""

import json
import shutil
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from drivesim import cli, config, disk, weights
from drivesim.data.index import Index
from drivesim.data.latents import LatentCache
from drivesim.errors import Mistake
from drivesim.jobs import encode, index, stack, train
from drivesim.jobs import weights as conversion
from drivesim.jobs.builders.latents import ImageRun, build_image
from drivesim.models.text import TextEncoder, identity
from drivesim.models.video import WholeModel, temporal_config, unet_config
from drivesim.scene import KEYFRAME_FPS
from tests.models import public

SIZE = (32, 64)
WORLD = "kind: world\nclips: 4\nseconds: 5\nfps: {}\nsize: [32, 64]\nval: 0.0\n"
LOOP = ["loop.steps=3", "loop.batch=2", "loop.ema=0.5", "loop.precision=32-true", "loop.warmup=1"]
LAYERS = ["temporal.depth=1", "temporal.head_channels=8", "temporal.alpha=scalar", "temporal.context_channels=0"]
KEYFRAMES = [*LAYERS, "temporal.frames=4", "temporal.cross=16", "context={given: [1.0, 0.0, 0.0], noise: 0.0}"]
WHOLE = [*LAYERS, "temporal.cross=16", "temporal.told=[rate, level]", "whole=true", "ends.levels=250"]
SUBJECT = ["subject.class_pictures=3", "subject.steps=2", "subject.size=[32,64]"]
PROMPTS = {"prompt": "a photo of sks car", "class_prompt": "a photo of a car"}


@dataclass(frozen=True)
class Chain:
    """Weights of each stage, and the folder that all lies in."""

    out: Path
    backbone: Path
    image: Path
    keyframes: Path
    interpolation: Path

    @property
    def cache(self) -> Path:
        return self.out / "cache"


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Chain:
    out = tmp_path_factory.mktemp("words")
    public.pipeline(out / "sd")
    conversion.run("convert", out / "sd", out / "W")
    for name, fps in (("cache", KEYFRAME_FPS), ("cache-30", Fraction(30))):
        (out / f"{name}.yaml").write_text(WORLD.format(fps))
        index.run(out / f"{name}.yaml", out / f"of-{name}")
        encode.run(out / f"of-{name}", out / "W", out / name, fps, SIZE)
    image = ran(out, "image", f"backbone={out / 'W'}", f"cache={out / 'cache'}")
    keyframes = ran(out, "keyframes", f"image={image}", f"cache={out / 'cache'}", *KEYFRAMES)
    interpolation = ran(out, "interpolation", f"image={image}", f"cache={out / 'cache-30'}", *WHOLE)
    return Chain(out, out / "W", image, keyframes, interpolation)


def ran(out: Path, stage: str, *settings: str, name: str = "", resume: bool = False) -> Path:
    return train.run(stage, None, [*LOOP, *settings], out / (name or stage), resume=resume)


def test_captions_reach_the_cache(chain: Chain) -> None:
    told = {entry.clip_id: entry.caption for entry in Index.open(chain.out / "of-cache").entries}
    assert all(told.values()) and len(set(told.values())) > 1
    assert {s.clip_id: s.caption for s in LatentCache.open(chain.cache).sequences} == told


def test_every_run_is_a_backbone_for_the_next(chain: Chain) -> None:
    for file, further in ((chain.image, []), (chain.keyframes, ["image"]), (chain.interpolation, [])):
        folder, header = file.parent, weights.header(file)
        hashes = {name: disk.sha256(folder / f"{name}.safetensors") for name in ["autoencoder", *further]}
        assert header.parents == {**hashes, "text": identity(folder / "text")}
        assert header.labels == ["text"] and header.size == SIZE
    assert identity(chain.image.parent / "text") == identity(chain.backbone / "text")
    before, after = (weights.load(folder / "image.safetensors") for folder in (chain.backbone, chain.image.parent))
    assert after[1].config == before[1].config and after[1].schedule == before[1].schedule
    assert after[1].train["init"] == disk.sha256(chain.backbone / "image.safetensors")
    assert before[0].keys() == after[0].keys() and any(not torch.equal(before[0][k], after[0][k]) for k in after[0])
    assert weights.header(chain.keyframes).config["context_channels"] == 0


def test_they_load_as_a_stack_that_is_told_words(chain: Chain, tmp_path: Path) -> None:
    shutil.copytree(chain.keyframes.parent, tmp_path / "w")
    shutil.copy(chain.interpolation, tmp_path / "w")
    loaded = stack.load(tmp_path / "w")
    assert loaded.words and loaded.temporal and not loaded.contextual
    assert loaded.interpolation is not None and loaded.interpolation.whole


def test_the_whole_model_is_one_file(chain: Chain) -> None:
    tensors, header = weights.load(chain.interpolation, "interpolation")
    model = WholeModel(unet_config(header.config["model"]), temporal_config(header.config["temporal"]))
    weights.fill(model, tensors, chain.interpolation)
    assert model.image.unet.config.joined == ("context", "mask") and model.image.unet.config.in_channels == 9
    assert tensors["image.unet.conv_in.weight"][:, 4:].any()  # what began at zero has been trained


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (["backbone=W", "model.blocks=3"], "model: is the backbone's\n  leave model out"),
        (["backbone=W", "schedule.target=eps", "init=x"], "schedule: is the backbone's\n  leave schedule, init out"),
        (["model.text=true"], "model.text: a model that is told words needs a text encoder"),
        (["backbone=nowhere"], "nowhere: no such folder of weights"),
        (["backbone={sd}"], "is a public pipeline"),
    ],
)
def test_what_a_backbone_does_not_go_with(chain: Chain, tmp_path: Path, settings: list[str], says: str) -> None:
    with pytest.raises(Mistake, match=says):
        ran(tmp_path, "image", *(word.format(sd=chain.out / "sd") for word in settings))


def test_a_cache_without_captions(chain: Chain, tmp_path: Path) -> None:
    shutil.copytree(chain.cache, tmp_path / "cache")
    import pyarrow.parquet as pq

    file = tmp_path / "cache" / "sequences.parquet"
    pq.write_table(pq.read_table(file).drop_columns(["caption"]), file)
    for stage, more in (("image", [f"backbone={chain.backbone}"]), ("keyframes", [f"image={chain.image}", *KEYFRAMES])):
        with pytest.raises(Mistake, match="holds no captions, and the image model is told words"):
            ran(tmp_path, stage, f"cache={tmp_path / 'cache'}", *more)


def test_the_text_encoder_is_the_image_models(chain: Chain, tmp_path: Path) -> None:
    shutil.copytree(chain.image.parent, tmp_path / "w")
    settings = [f"image={tmp_path / 'w' / 'image.safetensors'}", f"cache={chain.cache}", *KEYFRAMES]
    with open(tmp_path / "w" / "text" / "merges.txt", "a") as opened:
        opened.write("a b</w>\n")
    with pytest.raises(Mistake, match="not the text encoder that the image model was trained with"):
        ran(tmp_path, "keyframes", *settings)
    shutil.rmtree(tmp_path / "w" / "text")
    with pytest.raises(Mistake, match="no text encoder, and the image model is told words"):
        ran(tmp_path, "keyframes", *settings)


def test_temporal_tokens_of_another_width(chain: Chain, tmp_path: Path) -> None:
    settings = [f"image={chain.image}", f"cache={chain.cache}", *KEYFRAMES, "temporal.cross=24"]
    with pytest.raises(Mistake, match="temporal.cross: the image model's tokens are 16 wide, not 24"):
        ran(tmp_path, "keyframes", *settings)


def test_more_levels_of_noise_than_there_are(chain: Chain, tmp_path: Path) -> None:
    settings = [f"image={chain.image}", f"cache={chain.out / 'cache-30'}", *WHOLE, "ends.levels=1001"]
    with pytest.raises(Mistake, match="ends.levels: .* is discrete, of 1000 levels, not of 1001"):
        ran(tmp_path, "interpolation", *settings)


@pytest.mark.slow
def test_captions_that_are_too_long_are_cut_and_told(
    chain: Chain, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """The encoder's words are letters: 75 are read."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    shutil.copytree(chain.cache, tmp_path / "cache")
    file = tmp_path / "cache" / "sequences.parquet"
    rows = pq.read_table(file)
    longer = pa.array([f"{'fog ' * 40}{n}" for n in range(len(rows))], pa.string())
    pq.write_table(rows.set_column(rows.column_names.index("caption"), "caption", longer), file)
    ran(tmp_path, "image", f"backbone={chain.backbone}", f"cache={tmp_path / 'cache'}")
    said = f"{len(rows)} captions are longer than the 75 tokens that the text encoder reads: their ends are cut off"
    assert said in " ".join(capsys.readouterr().out.split())


# --- a subject --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of other sizes and aspects than the model's."""
    folder = tmp_path_factory.mktemp("photos")
    for n, (suffix, shape) in enumerate((("png", (40, 90)), ("jpg", (90, 40)), ("png", (32, 64)))):
        picture = np.random.default_rng(n).integers(0, 256, (*shape, 3), np.uint8)
        cv2.imwrite(str(folder / f"{n}.{suffix}"), picture)
    return folder


def learned(chain: Chain, photos: Path, out: Path, *more: str, resume: bool = False) -> Path:
    told = [f"subject.{key}={json.dumps(value)}" for key, value in PROMPTS.items()]
    settings = [f"backbone={chain.backbone}", f"subject.pictures={photos}", *SUBJECT, *told, *more]
    return ran(out.parent, "image", *settings, name=out.name, resume=resume)


@pytest.fixture(scope="module")
def subject(chain: Chain, photos: Path) -> Path:
    return learned(chain, photos, chain.out / "subject")


def test_a_subject_makes_a_backbone_with_a_text_encoder_of_its_own(chain: Chain, subject: Path, tmp_path: Path) -> None:
    folder, header = subject.parent, weights.header(subject)
    assert header.parents["text"] == identity(folder / "text") != identity(chain.backbone / "text")
    assert header.parents["autoencoder"] == disk.sha256(chain.backbone / "autoencoder.safetensors")
    assert header.size == SIZE and header.labels == ["text"]
    ours, theirs = (TextEncoder.load(place / "text") for place in (folder, chain.backbone))
    assert not torch.equal(ours.tokens(["sks"]), theirs.tokens(["sks"]))
    loaded = stack.load(chain.keyframes.parent, backbone=folder)
    assert loaded.words and loaded.apart
    ran(tmp_path, "image", f"backbone={folder}", f"cache={chain.cache}")  # and one to train further


@pytest.mark.slow
def test_the_class_is_the_backbones_own_and_kept(
    chain: Chain, subject: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Begun again in its folder, a run makes what is missing alone, the same as before; of another prompt, all."""
    made = subject.parents[1] / "class"
    pictures = {file.name: file.read_bytes() for file in made.glob("*.png")}
    assert len(pictures) == 3 and len(set(pictures.values())) == 3
    assert cv2.imread(str(made / "00000.png")).shape == (*SIZE, 3)
    shutil.copytree(made, tmp_path / "again" / "class")
    (tmp_path / "again" / "class" / "00001.png").unlink()
    from drivesim.training.subject import SubjectStage

    asked, real = list[int](), SubjectStage.class_picture

    def noted(self: SubjectStage, n: int, cells: tuple[int, int], steps: int | None = None) -> np.ndarray:
        asked.extend([n] if steps is None else [])  # with steps, it is but a measurement
        return real(self, n, cells, steps)

    monkeypatch.setattr(SubjectStage, "class_picture", noted)
    file = learned(chain, photos, tmp_path / "again")
    assert asked == [1]
    assert {f.name: f.read_bytes() for f in (tmp_path / "again" / "class").glob("*.png")} == pictures
    assert weights.load(file)[0].keys() == weights.load(subject)[0].keys()
    for name, tensor in weights.load(file)[0].items():
        assert torch.equal(tensor, weights.load(subject)[0][name])
    shutil.copytree(made, tmp_path / "other" / "class")
    learned(chain, photos, tmp_path / "other", "subject.class_prompt=a truck")
    assert asked == [1, 0, 1, 2]


@pytest.mark.slow
def test_resumed_is_uninterrupted_text_encoder_included(chain: Chain, photos: Path, tmp_path: Path) -> None:
    every = "loop.checkpoint_every=2"
    whole = learned(chain, photos, tmp_path / "whole", every)
    shutil.copytree(tmp_path / "whole", tmp_path / "stopped")
    shutil.rmtree(tmp_path / "stopped" / "weights")
    (tmp_path / "stopped" / "checkpoints" / "step-00000003.ckpt").unlink()
    resumed = learned(chain, photos, tmp_path / "stopped", every, resume=True)
    assert identity(resumed.parent / "text") == identity(whole.parent / "text")
    for name, tensor in weights.load(whole)[0].items():
        assert torch.equal(tensor, weights.load(resumed)[0][name])


def test_the_text_encoder_may_stay_as_it_is(chain: Chain, photos: Path, tmp_path: Path) -> None:
    file = learned(chain, photos, tmp_path / "frozen", "subject.text=false")
    assert identity(file.parent / "text") == identity(chain.backbone / "text")
    held = torch.load(next((tmp_path / "frozen" / "checkpoints").glob("*.ckpt")), weights_only=True)["state_dict"]
    assert all(name.startswith("image.") for name in held)


def test_what_is_told_beforehand_are_the_pictures_that_are_missing(
    chain: Chain, subject: Path, photos: Path, tmp_path: Path
) -> None:
    shutil.copytree(subject.parents[1] / "class", tmp_path / "o" / "class")
    (tmp_path / "o" / "class" / "00001.png").unlink()
    told = [f"subject.{key}={json.dumps(value)}" for key, value in PROMPTS.items()]
    words = [*LOOP, f"backbone={chain.backbone}", f"subject.pictures={photos}", *SUBJECT, *told]
    built = build_image(config.load(ImageRun, None, words), 0)
    assert built.beforehand is not None
    part = built.beforehand(tmp_path / "o", "cpu")
    assert part.calls == 1 and part.seconds > 0
    assert built.beforehand(tmp_path / "new", "cpu").calls == 3 and not (tmp_path / "new").exists()
    other = build_image(config.load(ImageRun, None, [*words, "subject.guidance=2"]), 0)
    assert other.beforehand is not None and other.beforehand(tmp_path / "o", "cpu").calls == 3


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (["subject.pictures={empty}"], "holds no pictures"),
        (["subject.pictures={empty}/nowhere"], "no such folder of pictures"),
        (["subject.pictures=''"], "subject.pictures: is missing\n  --subject DIR"),
        (["subject.prompt=''"], "subject.prompt: is missing\n  --prompt P"),
        (["subject.class_prompt=' '"], "subject.class_prompt: is missing"),
        (["subject.class_prompt=a photo of sks car"], "is the prompt of the class, too"),
        ([f"subject.prompt={'long ' * 20}"], "the prompt has 80 tokens"),
        (["backbone=''"], "subject: a subject is learned by a model that knows its class"),
        (["cache=c"], "cache: a subject is learned from its pictures"),
        (["loop.batch=3"], "loop.batch: half of a batch is the subject"),
        (["subject.size=[32,60]"], "subject.size: 32x60 does not divide by f = 8"),
        (["subject.prior=0"], "prior > 0"),
    ],
)
def test_what_is_wrong_with_a_subject(
    chain: Chain, photos: Path, tmp_path: Path, settings: list[str], says: str
) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(Mistake, match=says):
        learned(chain, photos, tmp_path / "o", *(word.format(empty=tmp_path / "empty") for word in settings))
    assert not (tmp_path / "o").exists()


def test_a_picture_that_is_none(chain: Chain, photos: Path, tmp_path: Path) -> None:
    shutil.copytree(photos, tmp_path / "photos")
    (tmp_path / "photos" / "3.png").write_bytes(b"no picture")
    with pytest.raises(Mistake, match="3.png: is not a PNG or JPEG"):
        learned(chain, tmp_path / "photos", tmp_path / "o")


@pytest.mark.slow
def test_a_subject_of_a_model_that_is_told_labels(chain: Chain, photos: Path, tmp_path: Path) -> None:
    shutil.copytree(chain.backbone, tmp_path / "w")
    own = ["model.channels=[16,16]", "model.blocks=1", "model.attention=[false,true]", "model.cross=8"]
    told = [f"cache={chain.cache}", f"autoencoder={chain.backbone / 'autoencoder.safetensors'}", "model.groups=4"]
    file = ran(tmp_path, "image", *own, *told, "model.head_channels=8", name="labels")
    settings = [f"backbone={file.parent}", f"subject.pictures={photos}", *SUBJECT, "subject.prompt=x"]
    with pytest.raises(Mistake, match="is told labels, and a subject is learned by its name"):
        ran(tmp_path, "image", *settings, "subject.class_prompt=y", name="o")
    ran(tmp_path, "image", f"backbone={file.parent}", f"cache={chain.cache}", name="further")  # labels go on, too


def test_the_options_are_shorthand(capsys: pytest.CaptureFixture) -> None:
    words = ["--subject", "pics: 1", "--prompt", "a 'sks' car: ä", "--class-prompt", "a car", "backbone=W"]
    assert cli.main(["train", "image", *words, "--print-config"]) == 0
    from drivesim import yamlfile

    told = yamlfile.parse(capsys.readouterr().out)["subject"]
    assert (told["pictures"], told["prompt"], told["class_prompt"]) == ("pics: 1", "a 'sks' car: ä", "a car")
    assert cli.main(["train", "keyframes", "--subject", "x"]) == 2
    assert "a subject is learned by 'train image', not by 'train keyframes'" in capsys.readouterr().err
