"""The jobs one after another on a small world, each fed with what the one before wrote; and what they refuse."""

import json
import shutil
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch

from drivesim import config, disk, weights
from drivesim.data import video
from drivesim.data.latents import LatentCache
from drivesim.errors import Mistake
from drivesim.jobs import encode, evaluate, generate, index, report, stack, train
from drivesim.rollout.settings import RolloutConfig

SIZE, FPS = (32, 64), Fraction(15, 8)
RECIPE = """
name: micro
kind: world
clips: 5
seconds: 10
fps: 15/8
size: [32, 64]
val: 0.4
"""
AT_30 = "\n".join(["name: micro-30", "kind: world", "clips: 2", "seconds: 1", "fps: 30", "size: [32, 64]", "val: 0.0"])
STEPS = 3
LOOP = [f"loop.steps={STEPS}", "loop.batch=2", "loop.ema=0.5", "loop.precision=32-true"]
SETTINGS: dict[str, list[str]] = {
    "autoencoder": [
        *("size=[32,64]", "fps=15/8", "statistics=8", "model.channels=[8,8,8]", "model.blocks=1"),
        *("model.attention=false", "model.groups=4", "loss.adversarial=0", "loss.perceptual=0"),
    ],
    "image": [
        *("model.channels=[16,16]", "model.blocks=1", "model.attention=[false,true]", "model.head_channels=8"),
        *("model.cross=8", "model.groups=4", "schedule.target=v", "schedule.betas=cosine"),
    ],
    "keyframes": ["temporal.frames=4", "temporal.depth=1", "temporal.head_channels=8", "temporal.context_channels=8"],
    "interpolation": [
        *("temporal.frames=5", "temporal.depth=1", "temporal.head_channels=8", "temporal.context_channels=8"),
        *("temporal.cross=8", "temporal.told=[rate]"),
    ],
    "decoder": ["loss.adversarial_from=1", "loss.width=8", "loss.perceptual=0"],
}


PARENTS: dict[str, list[str]] = {
    "autoencoder": [],
    "image": ["autoencoder"],
    "keyframes": ["autoencoder", "image"],
    "interpolation": ["autoencoder", "image"],
    "decoder": ["autoencoder"],
}


def trained(stage: str, out: Path, *more: str, seed: int = 0) -> Path:
    return train.run(stage, None, [*SETTINGS[stage], *LOOP, *more], out / stage, seed)


@dataclass(frozen=True)
class Chain:
    """The folder, and the weight file of each stage."""

    out: Path
    autoencoder: Path
    image: Path
    keyframes: Path
    interpolation: Path
    decoder: Path


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Chain:
    out = tmp_path_factory.mktemp("chain")
    (out / "world.yaml").write_text(RECIPE)
    index.run(out / "world.yaml", out / "world", seed=7)
    autoencoder = trained("autoencoder", out, f"index={out / 'world'}")
    encode.run(out / "world", autoencoder, out / "cache", FPS, SIZE)
    image = trained("image", out, f"cache={out / 'cache'}", f"autoencoder={autoencoder}")
    keyframes = trained("keyframes", out, f"cache={out / 'cache'}", f"image={image}")
    (out / "world-30.yaml").write_text(AT_30)
    index.run(out / "world-30.yaml", out / "world-30", seed=7)
    encode.run(out / "world-30", autoencoder, out / "cache-30", Fraction(30), SIZE)
    interpolation = trained("interpolation", out, f"cache={out / 'cache-30'}", f"image={image}")
    decoder = trained("decoder", out, f"index={out / 'world-30'}", f"autoencoder={autoencoder}")
    return Chain(out, autoencoder, image, keyframes, interpolation, decoder)


@pytest.fixture
def folder(chain: Chain, tmp_path: Path) -> Path:
    """A copy of the weights, for a test to spoil."""
    return Path(shutil.copytree(chain.keyframes.parent, tmp_path / "weights"))


def test_training_leaves_a_whole_run(chain: Chain) -> None:
    for stage, parents in PARENTS.items():
        run = chain.out / stage
        kept = json.loads((run / "run.json").read_text())
        file = run / "weights" / f"{stage}.safetensors"
        assert kept["status"] == "done" and kept["weights"] == {stage: disk.sha256(file)}
        assert {f.name for f in (run / "weights").iterdir()} == {f"{s}.safetensors" for s in [*parents, stage]}
        header = weights.header(file, stage)
        assert header.size == SIZE and header.train["steps"] == STEPS and header.ema == 0.5
        assert header.parents == {s: disk.sha256(run / "weights" / f"{s}.safetensors") for s in parents}
        assert (run / "metrics.csv").is_file() and (run / "config.yaml").is_file()
    for file, frames, fps in ((chain.keyframes, 4, "15/8"), (chain.interpolation, 5, "30"), (chain.decoder, 6, "30")):
        assert weights.header(file).frames == frames and weights.header(file).fps == fps
        told = weights.header(file).latent
        usual = told.pop("usual", None)
        assert told == weights.header(chain.autoencoder).latent and (usual is not None) == (file == chain.keyframes)
    of_keyframes, of_interpolation = (weights.header(file) for file in (chain.keyframes, chain.interpolation))
    assert of_interpolation.interface == of_keyframes.interface and of_interpolation.schedule == of_keyframes.schedule
    assert of_interpolation.config["rates"] == [7.5, 30.0] and of_interpolation.config["told"] == ["rate"]
    assert LatentCache.open(chain.out / "cache").about.autoencoder == disk.sha256(chain.autoencoder)


TRACKS = """
opening: {generate: {night: true}}
seconds: 4
fps: 15/8
boxes: tracks
tracks:
- {id: a, class: car, keys: [{t: 0, box: [0.2, 0.4, 0.5, 0.9]}, {t: 4, box: [0.4, 0.4, 0.7, 0.9]}]}
"""


def test_models_that_are_told_boxes(chain: Chain, tmp_path: Path) -> None:
    """From the world's boxes through all stages; unknown, none and a track are three different videos, and what a
    track does late changes nothing before."""
    cache = LatentCache.open(chain.out / "cache")
    assert cache.about.boxes and cache.boxes(cache.sequences[0], 0, 3)["box_known"].all()
    boxed = ["model.joined=[boxes]", "model.in_channels=24", "model.box_tokens=1"]
    image = trained("image", tmp_path, f"cache={chain.out / 'cache'}", f"autoencoder={chain.autoencoder}", *boxed)
    assert weights.header(image).labels == ["night", "cars", "boxes"]
    keyframes = trained("keyframes", tmp_path, f"cache={chain.out / 'cache'}", f"image={image}")
    interpolation = trained("interpolation", tmp_path, f"cache={chain.out / 'cache-30'}", f"image={image}")
    shutil.copy(interpolation, keyframes.parent)
    scenarios = tmp_path / "scenarios"
    scenarios.mkdir()
    (scenarios / "tracks.yaml").write_text(TRACKS)
    for kind in ("none", "unknown"):
        (scenarios / f"{kind}.yaml").write_text(TRACKS[: TRACKS.index("boxes")] + f"boxes: {kind}\n")
    quick = [f"{part}sampler.steps=2" for part in ("", "interpolation.")] + ["start.steps=2"]
    runs = generate.run(scenarios, keyframes.parent, tmp_path / "out", fps=Fraction(15), settings=quick)
    shown = {run.name: video.read(run / "video.mp4", frames=60).frames for run in runs}
    assert len({frames.tobytes() for frames in shown.values()}) == 3
    assert {run.name for run in runs if (run / "export" / "kitti").exists()} == {"none", "tracks"}
    with pytest.raises(Mistake, match="these weights take no boxes"):
        generate.run(scenarios / "none.yaml", chain.keyframes.parent, tmp_path / "refused")


def test_distilled_to_few_steps(chain: Chain, tmp_path: Path) -> None:
    """Begins with its teacher's weights, and is then sampled as it was taught, without a word of the user's."""
    shutil.copytree(chain.keyframes.parent, tmp_path / "few")
    for stage, cache, teacher in (
        ("keyframes", "cache", chain.keyframes), ("interpolation", "cache-30", chain.interpolation),
    ):  # fmt: skip
        given = [f"cache={chain.out / cache}", f"image={chain.image}", f"distill.teacher={teacher}"]
        still = trained(stage, tmp_path / "still", *given, "distill.steps=2", "loop.lr=1e-30", "loop.weight_decay=0")
        assert all((weights.load(still)[0][name] == value).all() for name, value in weights.load(teacher)[0].items())
        student = trained(stage, tmp_path, *given, "distill.steps=2", "distill.labels=2", "distill.method=consistency")
        assert any((weights.load(student)[0][name] != value).any() for name, value in weights.load(teacher)[0].items())
        header = weights.header(student)
        assert header.schedule["distilled"] == 2 and header.train["init"] == disk.sha256(teacher)
        shutil.copy(student, tmp_path / "few")
    (run,) = generate.run(None, tmp_path / "few", tmp_path / "run", minutes=0.05, fps=Fraction(15), seeds=[1])
    made = config.load(RolloutConfig, run / "config.yaml")
    assert (made.sampler.steps, made.interpolation.sampler.steps, made.start.steps) == (2, 2, 20)
    for asked, where in (("sampler.steps=3", "sampler"), ("interpolation.sampler.eta=1", "interpolation.sampler")):
        with pytest.raises(Mistake, match="distilled to 2 steps of ddim") as wrong:
            generate.run(None, tmp_path / "few", tmp_path / "no", minutes=0.05, fps=Fraction(15), settings=[asked])
        assert wrong.value.field == where


@pytest.mark.parametrize(
    ("more", "what"),
    [
        (["distill.steps=3"], "was distilled itself, to 2 steps"),
        (["loss.shared=0.3"], "shared 0 of their noise"),
        (["distill.boxes=2"], "told no boxes"),
        (["init=other.safetensors"], "begins with the teacher's"),
        (["temporal.depth=2"], "tensors missing"),
    ],
)
def test_what_cannot_be_a_teacher(chain: Chain, tmp_path: Path, more: list[str], what: str) -> None:
    tensors, header = weights.load(chain.keyframes)
    few = {**header.schedule, "distilled": 2} if "itself" in what else header.schedule
    weights.save(tmp_path / "keyframes.safetensors", tensors, replace(header, schedule=few))
    teacher = tmp_path / "keyframes.safetensors"
    given = [f"cache={chain.out / 'cache'}", f"image={chain.image}", f"distill.teacher={teacher}"]
    with pytest.raises(Mistake, match=what):
        trained("keyframes", tmp_path / "run", *given, *more)


def test_of_too_many_boxes_the_smallest_are_left_out_and_it_is_said(
    chain: Chain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, most = LatentCache.open(chain.out / "cache"), 1
    assert whole.about.boxes > most
    monkeypatch.setattr(encode, "MOST_BOXES", most)
    capsys.readouterr()
    encode.run(chain.out / "world", chain.autoencoder, tmp_path / "few", FPS, SIZE)
    assert f"more than 1 boxes, up to {whole.about.boxes}" in " ".join(capsys.readouterr().out.split())
    few = LatentCache.open(tmp_path / "few")
    for sequence in few.sequences:
        kept, held = (cache.boxes(sequence, 0, sequence.frames) for cache in (few, whole))
        area = (held["boxes"][..., 2:] - held["boxes"][..., :2]).prod(-1) * (held["box_class"] >= 0)
        assert torch.equal((kept["boxes"][..., 2:] - kept["boxes"][..., :2]).prod(-1)[:, 0], area.amax(1))


def test_a_model_of_boxes_needs_boxes(chain: Chain, tmp_path: Path) -> None:
    shutil.copytree(chain.out / "world" / "videos", tmp_path / "videos")
    index.run(tmp_path / "videos", tmp_path / "index")
    encode.run(tmp_path / "index", chain.autoencoder, tmp_path / "cache", FPS, SIZE)
    with pytest.raises(Mistake, match="holds no boxes"):
        trained(
            "image", tmp_path, f"cache={tmp_path / 'cache'}", f"autoencoder={chain.autoencoder}",
            "model.joined=[boxes]", "model.in_channels=24",
        )  # fmt: skip


def test_generate_evaluate_report(chain: Chain, tmp_path: Path) -> None:
    quick = ["sampler.steps=2", "start.steps=2"]
    out = tmp_path / "run"
    (run,) = generate.run(None, chain.keyframes.parent, out, minutes=0.4, seeds=[1], fps=FPS, settings=quick)
    shown = video.probe(run / "video.mp4")
    assert (shown.height, shown.width, shown.fps) == (*SIZE, FPS) and shown.frames >= 45
    assert shown.comment.startswith("synthetic: generated by drivesim ")
    assert json.loads((run / "run.json").read_text())["status"] == "done"
    score = evaluate.run(chain.out / "world", run, settings=evaluate.Settings(cache=chain.out / "features"))[0]
    assert score["value"] > 0 and set(score["controls"]) == {"frozen", "shuffled"}
    assert json.loads((run / "scores.json").read_text())[0]["value"] == pytest.approx(score["value"])
    page = report.run(run).read_text()
    assert "<video" in page and "builtin-v1" in page and "http://" not in page.replace("http://www.w3.org", "")


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(chain: Chain, tmp_path: Path) -> None:
    again = trained("autoencoder", tmp_path / "same", f"index={chain.out / 'world'}")
    other = trained("autoencoder", tmp_path / "other", f"index={chain.out / 'world'}", seed=1)
    first, same, else_ = (weights.load(file)[0] for file in (chain.autoencoder, again, other))
    assert all((first[name] == same[name]).all() for name in first)
    assert not all((first[name] == else_[name]).all() for name in first)


def test_training_begins_with_other_weights_of_the_stage(chain: Chain, tmp_path: Path) -> None:
    """At a rate of nearly nothing they stay what they are; another seed begins with the same."""
    given = [
        f"cache={chain.out / 'cache'}",
        f"autoencoder={chain.autoencoder}",
        f"init={chain.image}",
        "loop.lr=1e-12",
    ]
    made = trained("image", tmp_path, *given, seed=5)
    (now, header), (before, _) = weights.load(made, "image"), weights.load(chain.image, "image")
    assert header.train["init"] == disk.sha256(chain.image)
    for name, tensor in before.items():
        torch.testing.assert_close(now[name], tensor, atol=1e-6, rtol=0)
    with pytest.raises(Mistake, match="stage 'autoencoder', not 'image'"):
        trained("image", tmp_path / "stage", *given, f"init={chain.autoencoder}")
    with pytest.raises(Mistake, match="of another shape"):
        trained("image", tmp_path / "shape", *given, "model.head_channels=4", "model.cross=16")
    assert not list((tmp_path / "shape").rglob("*.safetensors"))


def test_print_config_trains_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train.run("image", None, ["loop.steps=7"], tmp_path / "out", print_config=True)
    assert "steps: 7" in capsys.readouterr().out and not (tmp_path / "out").exists()


def test_weights_of_another_stage(chain: Chain, folder: Path, tmp_path: Path) -> None:
    shutil.copyfile(folder / "autoencoder.safetensors", folder / "image.safetensors")
    with pytest.raises(Mistake, match="weights of stage 'autoencoder', not 'image'"):
        stack.load(folder)
    with pytest.raises(Mistake, match="weights of stage 'image', not 'autoencoder'"):
        trained("image", tmp_path, f"cache={chain.out / 'cache'}", f"autoencoder={chain.image}")
    with pytest.raises(Mistake, match="weights of stage 'image', not 'autoencoder'"):
        encode.run(chain.out / "world", chain.image, tmp_path / "cache", FPS, SIZE)
    for stage, parent, wrong in (
        ("decoder", "autoencoder", chain.image),
        ("interpolation", "image", chain.autoencoder),
        ("interpolation", "image", chain.keyframes),
    ):
        data = f"index={chain.out / 'world-30'}" if stage == "decoder" else f"cache={chain.out / 'cache-30'}"
        with pytest.raises(Mistake, match=f"weights of stage '{wrong.stem}', not '{parent}'"):
            trained(stage, tmp_path, data, f"{parent}={wrong}")
    assert not any((tmp_path / name).exists() for name in ("image", "cache", "decoder", "interpolation"))


def test_missing_weights(chain: Chain, folder: Path, tmp_path: Path) -> None:
    (folder / "image.safetensors").unlink()
    with pytest.raises(Mistake, match=r"image\.safetensors: no such weight file"):
        generate.run(None, folder, tmp_path / "run", minutes=0.1)
    with pytest.raises(Mistake, match="no such folder of weights"):
        generate.run(None, tmp_path / "nowhere", tmp_path / "run", minutes=0.1)
    with pytest.raises(Mistake, match="no such weight file"):
        trained("keyframes", tmp_path, f"cache={chain.out / 'cache'}", f"image={tmp_path / 'no.safetensors'}")
    for stage in ("keyframes", "interpolation"):
        with pytest.raises(Mistake, match="'image' is not set"):
            trained(stage, tmp_path, f"cache={chain.out / 'cache'}")
        with pytest.raises(Mistake, match="'cache' is not set"):
            trained(stage, tmp_path, f"image={chain.image}")
    with pytest.raises(Mistake, match="'autoencoder' is not set"):
        trained("decoder", tmp_path, f"index={chain.out / 'world-30'}")
    with pytest.raises(Mistake, match="'index' is not set"):
        trained("decoder", tmp_path, f"autoencoder={chain.autoencoder}")
    assert not (tmp_path / "run").exists() and not (tmp_path / "keyframes").exists()


def test_a_parent_that_does_not_match(chain: Chain, folder: Path, tmp_path: Path) -> None:
    other = trained("autoencoder", tmp_path, f"index={chain.out / 'world'}", seed=1)
    shutil.copyfile(other, folder / "autoencoder.safetensors")
    with pytest.raises(Mistake, match="trained on another autoencoder"):
        stack.load(folder)
    with pytest.raises(Mistake, match="not the autoencoder that the image model was trained on"):
        trained("keyframes", tmp_path, f"cache={chain.out / 'cache'}", f"image={folder / 'image.safetensors'}")
    with pytest.raises(Mistake, match="not the autoencoder that the image model was trained on"):
        trained("interpolation", tmp_path, f"cache={chain.out / 'cache-30'}", f"image={folder / 'image.safetensors'}")
    with pytest.raises(Mistake, match="holds latents of another autoencoder"):
        trained("image", tmp_path, f"cache={chain.out / 'cache'}", f"autoencoder={other}")
    encode.run(chain.out / "world-30", other, tmp_path / "cache-30", Fraction(30), SIZE)
    with pytest.raises(Mistake, match="holds latents of another autoencoder"):
        trained("interpolation", tmp_path, f"cache={tmp_path / 'cache-30'}", f"image={chain.image}")


def test_folders_that_are_taken(chain: Chain, tmp_path: Path) -> None:
    with pytest.raises(Mistake, match="holds a run already"):
        trained("autoencoder", chain.out, f"index={chain.out / 'world'}")
    for job in (
        lambda out: index.run(chain.out / "world.yaml", out),
        lambda out: encode.run(chain.out / "world", chain.autoencoder, out, FPS, SIZE),
        lambda out: generate.run(None, chain.keyframes.parent, out, minutes=0.1),
    ):
        before = sorted(chain.out.rglob("*"))
        with pytest.raises(Mistake):
            job(chain.out)
        assert sorted(chain.out.rglob("*")) == before
    with pytest.raises(Mistake, match="no checkpoint to resume from"):
        train.run("autoencoder", None, [f"index={chain.out / 'world'}"], tmp_path / "none", resume=True)


def test_wrong_settings(chain: Chain, tmp_path: Path) -> None:
    with pytest.raises(Mistake, match="no stage 'keyframe'"):
        train.run("keyframe", None, [], tmp_path / "out")
    with pytest.raises(Mistake, match="loop.step"):
        train.run("image", None, ["loop.step=3"], tmp_path / "out")
    with pytest.raises(Mistake, match="no sequence has 40 frames"):
        more = [f"cache={chain.out / 'cache'}", f"image={chain.image}", "temporal.frames=40"]
        trained("keyframes", tmp_path, *more)
    with pytest.raises(Mistake, match="does not divide"):
        encode.run(chain.out / "world", chain.autoencoder, tmp_path / "cache", FPS, (30, 64))
    interpolation = [f"cache={chain.out / 'cache-30'}", f"image={chain.image}"]
    for setting, said in (
        ("temporal.frames=4", "both ends and three between, not 4"),
        ("temporal.told=[]", "several must be told apart"),
        ("temporal.rates=[]", "needs rates > 0"),
        ("ends.drop=1.0", "0 <= drop < 1"),
        ("temporal.rates=[7.5, 20.0]", "no whole multiple of 20"),
    ):
        with pytest.raises(Mistake, match=said):
            trained("interpolation", tmp_path, *interpolation, setting)
    decoder = [f"index={chain.out / 'world-30'}", f"autoencoder={chain.autoencoder}"]
    for setting, said in (
        ("size=[30,64]", "does not divide by f = 4"),
        ("fps=0", "a rate above 0"),
        ("decoder.frames=1", "frames >= 2"),
        ("decoder.frames=31", "no clip gives 31 frames at 30 fps"),
        ("decoder.channels=[8,8,8,8]", "at most 3 levels"),
        (f"teacher={chain.decoder}", "a teacher teaches a thin decoder"),
    ):
        with pytest.raises(Mistake, match=said):
            trained("decoder", tmp_path, *decoder, setting)


def test_a_thin_decoder_is_taught_and_decodes_a_rollout(chain: Chain, tmp_path: Path) -> None:
    own = [f"index={chain.out / 'world-30'}", f"autoencoder={chain.autoencoder}", "decoder.channels=[8]"]
    thin = trained("decoder", tmp_path, *own, f"teacher={chain.decoder}")
    header = weights.header(thin, "decoder")
    assert header.config["channels"] == [8]
    plain = trained("decoder", tmp_path / "real", *own)
    assert disk.sha256(plain) != disk.sha256(thin), "the teacher's pictures are others than the real ones"
    videos = []
    for name, decoder in (("whole", chain.decoder), ("thin", thin)):
        folder = Path(shutil.copytree(chain.interpolation.parent, tmp_path / name))
        shutil.copy(chain.keyframes, folder)
        shutil.copy(decoder, folder / "decoder.safetensors")
        quick = ["sampler.steps=1", "start.steps=1", "interpolation.sampler.steps=1"]
        (run,) = generate.run(None, folder, tmp_path / f"{name}-run", minutes=0.03, fps=Fraction(30), settings=quick)
        videos.append(video.read(run / "video.mp4", frames=30).frames)
    assert videos[0].shape == videos[1].shape and not np.array_equal(*videos)
    other = trained("autoencoder", tmp_path / "other", f"index={chain.out / 'world'}", seed=9)
    with pytest.raises(Mistake, match="the latents of another autoencoder"):
        trained("decoder", tmp_path / "no", own[0], f"autoencoder={other}", *own[2:], f"teacher={chain.decoder}")


def test_a_cache_at_the_rate_of_keyframes_has_nothing_between(chain: Chain, tmp_path: Path) -> None:
    with pytest.raises(Mistake, match="15/8 frames a second are no whole multiple of 15/2") as told:
        trained("interpolation", tmp_path, f"cache={chain.out / 'cache'}", f"image={chain.image}")
    assert told.value.mend == "encode with --fps 30"


def test_footage_at_ten_frames_a_second_trains_the_lower_rate_alone(chain: Chain, tmp_path: Path) -> None:
    fps = Fraction(15, 2)
    encode.run(chain.out / "world-30", chain.autoencoder, tmp_path / "cache", fps, SIZE)
    settings = [f"cache={tmp_path / 'cache'}", f"image={chain.image}", "temporal.rates=[7.5]"]
    made = weights.header(trained("interpolation", tmp_path, *settings))
    assert made.fps == "15/2" and made.config["rates"] == [7.5]


def test_resuming_what_is_finished_changes_nothing(chain: Chain, tmp_path: Path) -> None:
    """Also where only the weight file is missing: the averaged weights come back from the last checkpoint."""
    out = Path(shutil.copytree(chain.out / "image", tmp_path / "image"))
    words = [*SETTINGS["image"], *LOOP, f"cache={chain.out / 'cache'}", f"autoencoder={chain.autoencoder}"]
    file = out / "weights" / "image.safetensors"
    before = weights.load(file)[0]
    assert train.run("image", None, words, out, 0, resume=True) == file
    file.unlink()
    train.run("image", None, words, out, 0, resume=True)
    after = weights.load(file)[0]
    assert all((after[name] == tensor).all() for name, tensor in before.items())
    with pytest.raises(Mistake, match="began with another label_drop, model"):
        train.run("image", None, [*words, "model.blocks=2", "label_drop=0.5"], out, 0, resume=True)


def test_what_does_not_fit_is_told_before_anything_is_written(chain: Chain, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "new"
    (folder / "autoencoder.safetensors").unlink()
    keyframes = [*SETTINGS["keyframes"], *LOOP, f"image={folder / 'image.safetensors'}"]
    with pytest.raises(Mistake, match="no such weight file"):
        train.run("keyframes", None, [*keyframes, f"cache={chain.out / 'cache'}"], out)
    encode.run(chain.out / "world", chain.autoencoder, tmp_path / "slow", Fraction(1), SIZE)
    wrong = [*SETTINGS["keyframes"], *LOOP, f"image={chain.image}", f"cache={tmp_path / 'slow'}"]
    with pytest.raises(Mistake, match="latents at 1 frames a second"):
        train.run("keyframes", None, wrong, out)
    first = [*SETTINGS["autoencoder"], *LOOP, f"index={chain.out / 'world'}"]
    for more, said in (
        (["size=[30,64]"], "does not divide"),
        (["fps=abc"], "a rate above 0"),
        (["model.groups=7"], "divisible"),
        (["loop.precision=half"], "precision"),
        (["loop.minutes=0"], "minutes > 0"),
    ):
        with pytest.raises(Mistake, match=said):
            train.run("autoencoder", None, [*first, *more], out)
    assert not out.exists()


def test_too_many_given_frames_are_refused(chain: Chain, tmp_path: Path) -> None:
    with pytest.raises(Mistake, match="at most 2"):
        generate.run(None, chain.keyframes.parent, tmp_path / "run", minutes=0.1, settings=["overlap=3"])
    assert not (tmp_path / "run").exists()
