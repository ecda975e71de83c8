"""``train upsampler`` and ``train upsampler-temporal``, from an index to weight files; what they refuse."""

import csv
import math
import re
from pathlib import Path

import pytest
import torch

from drivesim import config, disk, weights
from drivesim.errors import Mistake
from drivesim.jobs import index, train
from drivesim.jobs.builders.upsampler import UpsamplerRun, UpsamplerTemporalRun
from drivesim.models.temporal import TemporalLayers
from drivesim.models.video import ImageModel, interface, temporal_config, unet_config

RECIPE = """
name: micro
kind: world
clips: 3
seconds: 1
fps: 30
size: [64, 128]
val: 0.0
"""
LOOP = ["loop.batch=2", "loop.ema=0.5", "loop.precision=32-true", "loop.warmup=1", "loop.lr=0.002"]
IMAGE = [
    *("model.channels=[16,16]", "model.blocks=1", "model.attention=[false,true]", "model.cross=8", "model.heads=2"),
    *("model.groups=4", "model.patch=4", "model.classes=40", "low_levels=30"),
]
TEMPORAL = [
    "temporal.frames=4",
    "temporal.depth=1",
    "temporal.heads=2",
    "temporal.cross=8",
    "temporal.context_channels=8",
]
SMALL = ["size=[64,128]", "crop=[32,48]", "loop.steps=3"]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("upsampler")
    (out / "world.yaml").write_text(RECIPE)
    return index.run(out / "world.yaml", out / "world", seed=7)


@pytest.fixture(scope="module")
def image(world: Path) -> Path:
    return train.run("upsampler", None, [*IMAGE, *LOOP, *SMALL, f"index={world}"], world.parent / "image")


@pytest.fixture(scope="module")
def temporal(world: Path, image: Path) -> Path:
    more = [f"index={world}", f"upsampler={image}", "crop=[32,48]", "loop.steps=3"]
    return train.run("upsampler-temporal", None, [*TEMPORAL, *LOOP, *more], world.parent / "temporal")


def test_the_image_upsampler_says_what_it_is(image: Path) -> None:
    tensors, header = weights.load(image, "upsampler")
    assert header.size == (64, 128) and header.labels == ["night", "cars"] and header.parents == {}
    assert header.latent == {"f": 1, "channels": 3, "factor": 4, "low_levels": 30}
    assert header.schedule["betas"] == "linear" and header.schedule["target"] == "v"
    weights.fill(ImageModel(unet_config(header.config)), tensors, image)
    assert unet_config(header.config).patch == 4


@pytest.mark.parametrize("stage", ["upsampler", "upsampler-temporal"])
def test_both_learn_to_take_few_steps(stage: str, world: Path, image: Path, temporal: Path, tmp_path: Path) -> None:
    teacher = image if stage == "upsampler" else temporal
    own = (
        [*IMAGE, *SMALL] if stage == "upsampler" else [*TEMPORAL, f"upsampler={image}", "crop=[32,48]", "loop.steps=3"]
    )
    few = [f"distill.teacher={teacher}", "distill.steps=2", "distill.labels=2"]
    student = train.run(stage, None, [*own, *LOOP, f"index={world}", *few], tmp_path / "few")
    (before, _), (after, header) = weights.load(teacher), weights.load(student)
    assert header.schedule["distilled"] == 2 and header.train["init"] == disk.sha256(teacher)
    assert before.keys() == after.keys() and any((before[name] != after[name]).any() for name in before)


def test_the_temporal_layers_say_what_they_stand_in(image: Path, temporal: Path) -> None:
    tensors, header = weights.load(temporal, "upsampler-temporal")
    of_image = weights.header(image)
    assert header.parents == {"upsampler": disk.sha256(image)} and header.frames == 4 and header.fps == "30"
    assert header.interface == of_image.interface == interface(unet_config(of_image.config))
    assert (header.size, header.latent, header.labels) == (of_image.size, of_image.latent, of_image.labels)
    assert header.schedule == {**of_image.schedule, "shared": 0.0, "known": 1}
    layers = TemporalLayers(temporal_config(header.config), ImageModel(unet_config(of_image.config)).unet)
    weights.fill(layers, tensors, temporal)
    assert disk.sha256(temporal.parent / "upsampler.safetensors") == disk.sha256(image)  # the folder is complete


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("size=[510,1024]", "size: 510x1024 does not divide by 4 .*\n.*508x1024 and 512x1024"),
        ("crop=[100,130]", "crop: 100x130 does not divide by 4 .*\n.*100x128 and 100x132"),
        ("crop=[0,128]", "crop: 0x128 does not divide"),
        ("crop=[1024,1024]", "crop: 1024x1024 is no part of 512x1024"),
        ("model.patch=3", "size: 512x1024 does not divide by 12 .*\n.*504x1020 and 516x1032"),
        ("model.classes=100", "low_levels: low_levels 250 .*\n.*model.classes=251"),
        ("fps=0", "fps: a rate above 0 is expected, not '0'"),
        ("factor=1", "factor >= 2"),
    ],
)
def test_settings_that_cannot_be_are_mistakes(override: str, told: str) -> None:
    with pytest.raises(Mistake) as caught:
        config.load(UpsamplerRun, None, [override])
    assert re.search(told, str(caught.value))


def test_a_model_of_latents_is_no_upsampler() -> None:
    with pytest.raises(Mistake, match="enlarges pixels beside the low-resolution frames"):
        config.load(UpsamplerRun, None, ["model.in_channels=4", "model.out_channels=4", "model.joined=[]"])


def test_temporal_settings_that_cannot_be_are_mistakes(world: Path, image: Path, tmp_path: Path) -> None:
    for override, told in (
        ("temporal.context=given", "the context is the low-resolution frames"),
        ("temporal.told=[rate]", "is told nothing but labels"),
        ("fps=x", "fps: a rate above 0 is expected, not 'x'"),
    ):
        with pytest.raises(Mistake, match=told):
            config.load(UpsamplerTemporalRun, None, [override])
    for more, told in (
        (["upsampler=''"], "'upsampler' is not set"),
        (["crop=[30,48]"], "crop: 30x48 does not divide by 4"),
        (["temporal.cross=16"], "tokens are 8 wide, not 16"),
        (["index=''"], "'index' is not set"),
    ):
        settings = [*TEMPORAL, *LOOP, *SMALL, f"index={world}", f"upsampler={image}", *more]
        with pytest.raises(Mistake, match=told):
            train.run("upsampler-temporal", None, settings, tmp_path / "o")


def test_weights_of_another_stage_are_refused(world: Path, image: Path, temporal: Path, tmp_path: Path) -> None:
    settings = [*TEMPORAL, *LOOP, *SMALL, f"index={world}", f"upsampler={temporal}"]
    with pytest.raises(Mistake, match="weights of stage 'upsampler-temporal', not 'upsampler'"):
        train.run("upsampler-temporal", None, settings, tmp_path / "o")


@pytest.mark.slow
def test_both_train_and_run_at_512x1024(shared: Path, tmp_path: Path) -> None:
    """On real clips, whole frames as crops: narrow networks, a few steps. Without attention, which over so many places
    would take minutes, and so without labels. That losses fall is tested on small frames, on one batch repeated."""
    (tmp_path / "recipe.yaml").write_text(
        "kind: videos\nval: 0.0\ninclude: ['nvidia_clips/input3.mp4', 'nvidia_clips/av_0.mp4']\n"
    )
    index.run(shared / "data" / "permissive", tmp_path / "index", tmp_path / "recipe.yaml")
    common = [f"index={tmp_path / 'index'}", *LOOP, "loop.batch=1", "loop.steps=12"]
    bare = ["model.attention=[false,false]", "model.cross=null"]
    image = train.run("upsampler", None, [*IMAGE, *bare, *common, "crop=[512,1024]"], tmp_path / "image")
    more = [f"upsampler={image}", "crop=[512,1024]", "fps=15/2", "temporal.cross=null"]
    temporal = train.run("upsampler-temporal", None, [*TEMPORAL, *common, *more], tmp_path / "temporal")
    for file in (image, temporal):
        assert weights.header(file).size == (512, 1024)
        assert all(torch.isfinite(tensor).all() for tensor in weights.load(file)[0].values())
        with open(file.parents[1] / "metrics.csv", newline="") as opened:
            losses = [float(row["loss"]) for row in csv.DictReader(opened)]
        assert len(losses) == 3 and all(map(math.isfinite, losses))
