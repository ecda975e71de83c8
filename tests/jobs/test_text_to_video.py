"""Words to video, end to end on a tiny public pipeline: key-frames all from noise, over one backbone or another;
against diffusers where there are no temporal layers; and the file at 24 frames a second."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from torch import nn

from drivesim import cli, config, disk, weights
from drivesim.data import video
from drivesim.errors import Mistake
from drivesim.jobs import generate, pipelines, stack
from drivesim.jobs.preflight import Estimate
from drivesim.models.temporal import TemporalConfig, TemporalLayers
from drivesim.models.text import identity
from drivesim.models.video import ImageModel, WholeModel, interface, unet_config
from drivesim.rollout import engine
from drivesim.rollout.engine import Rollout, prepare
from drivesim.rollout.sample import START
from drivesim.rollout.scenario import Scenario
from drivesim.rollout.settings import GuidanceConfig, RolloutConfig, SamplerConfig
from drivesim.scene import Labels
from tests.models import public

T, WIDTH, OTHER = 8, 16, 24
QUICK = ["sampler.steps=2", "interpolation.sampler.steps=1", "interpolation.batch=7"]
KEYS = TemporalConfig(
    frames=T, alpha="scalar", depth=1, heads=2, cross=WIDTH, context_channels=0, positions="relative", reach=T
)
ENDS = replace(KEYS, frames=5, told=("rate", "level"), positions="absolute", reach=None)


@dataclass(frozen=True, eq=False)
class Made:
    """Folders: weights that are told words, two backbones to put below (one with a wider text encoder), and the
    pipeline that the weights were made from."""

    weights: Path
    other: Path
    wider: Path
    pipeline: Path
    theirs: Any


def stirred(module: nn.Module, seed: int) -> nn.Module:
    """Away from its start, where temporal layers change nothing."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    return module


def keyframes(folder: Path, file: Path, temporal: TemporalConfig = KEYS, seed: int = 1, **changes: Any) -> Path:
    image, header = stack.load_image(folder / "image.safetensors")
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        layers = stirred(TemporalLayers(temporal, image.unet), seed)
    parents = {stage: disk.sha256(folder / f"{stage}.safetensors") for stage in ("autoencoder", "image")}
    own = weights.Header(
        "keyframes", config.plain(temporal), parents={**parents, "text": identity(folder / "text")},
        interface=interface(image.unet.config), size=(64, 64), frames=temporal.frames, fps="15/8",
        latent=header.latent, schedule=header.schedule, labels=["text"], alpha=temporal.alpha,
    )  # fmt: skip
    weights.save(file, layers.state_dict(), replace(own, **changes))
    return file


def interpolation(folder: Path, file: Path, seed: int = 2, **changes: Any) -> Path:
    header = weights.header(folder / "image.safetensors", "image")
    joined = {"in_channels": 9, "joined": ("context", "mask"), **changes}
    spatial = replace(unet_config(header.config), **joined)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = stirred(WholeModel(spatial, ENDS), seed)
    own = weights.Header(
        "interpolation", {"model": config.plain(spatial), "temporal": config.plain(ENDS)},
        parents={"autoencoder": disk.sha256(folder / "autoencoder.safetensors"), "text": identity(folder / "text")},
        interface=interface(spatial), size=(64, 64), frames=5, fps="30",
        latent=header.latent, schedule=header.schedule, labels=["text"], alpha="scalar",
    )  # fmt: skip
    weights.save(file, model.state_dict(), own)
    return file


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    out = tmp_path_factory.mktemp("text")
    theirs = public.pipeline(out / "sd")
    public.pipeline(out / "sd-other", seed=1)
    public.pipeline(out / "sd-wider", seed=2, width=OTHER)
    for name in ("sd", "sd-other", "sd-wider"):
        pipelines.convert(out / name, out / f"w-{name}")
    keyframes(out / "w-sd", out / "w-sd" / "keyframes.safetensors")
    interpolation(out / "w-sd", out / "w-sd" / "interpolation.safetensors")
    return Made(out / "w-sd", out / "w-sd-other", out / "w-sd-wider", out / "sd", theirs)


@pytest.fixture
def folder(made: Made, tmp_path: Path) -> Path:
    """A copy of the weights, for a test to spoil."""
    return Path(shutil.copytree(made.weights, tmp_path / "w"))


def run(out: Path, weights: Path, *words: str) -> int:
    """The command, in full precision and a few steps."""
    return cli.main(
        ["generate", "--weights", str(weights), "--out", str(out), "--precision", "32", "--device", "cpu", *QUICK]
        + [str(word) for word in words]
    )


@pytest.fixture
def unmeasured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the preflight, which takes longer than what it foretells."""
    monkeypatch.setattr(generate, "foresee", lambda *_: Estimate("generate", (), None, 0, "nothing"))


quickly = pytest.mark.usefixtures("unmeasured")
KEYS_ALONE = ("--fps", "15/8")


def shown(out: Path) -> np.ndarray:
    file = out / "video.mp4"
    return video.read(file, frames=video.probe(file).frames).frames


def planned(made: Made, scenario: Scenario, settings: RolloutConfig, **others: Any) -> Rollout:
    return prepare(stack.load(made.weights, precision="32", **others), scenario, scenario.seeds[0], settings)


# --- the whole, and its rate ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def foggy(made: Made, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "fog"
    assert run(out, made.weights, "--prompt", "fog") == 0
    return out


def test_eight_keyframes_become_113_frames_at_24_a_second(foggy: Path, made: Made) -> None:
    info = video.probe(foggy / "video.mp4")
    assert (info.frames, info.fps, info.height, info.width) == (113, 24, 64, 64)
    assert info.seconds == Fraction(113, 24)
    for segment in (foggy / "segments").iterdir():
        assert video.probe(segment).fps == 24
    with av.open(str(foggy / "video.mp4")) as container:
        times = [frame.pts * frame.time_base for frame in container.decode(video=0)]
        assert times == [Fraction(n, 24) for n in range(113)]
        assert '"made_at": "30"' in container.metadata["comment"]
    plan, about = (json.loads((foggy / name).read_text()) for name in ("plan.json", "run.json"))
    assert plan["plan"] | {"keyframes": 8, "frames": 8, "given": 0, "factor": 16, "passes": 2} == plan["plan"]
    assert plan["windows"] == [{"n": 0, "start": 0, "given": 0, "first": 0, "last": 8}]
    assert (plan["fps"], plan["fixed"]["played"]) == ("30", "24") == (about["fps"], about["played"])
    hashes = {stage: disk.sha256(made.weights / f"{stage}.safetensors") for stage in stack.NEEDED}
    hashes |= {"interpolation": disk.sha256(made.weights / "interpolation.safetensors")}
    assert about["weights"] == plan["fixed"]["weights"] == hashes | {"text": identity(made.weights / "text")}


def test_every_frame_has_the_time_of_the_file_and_the_time_that_was_made(foggy: Path) -> None:
    rows = pq.read_table(foggy / "labels.parquet").to_pylist()
    assert [Fraction(row["time_num"], row["time_den"]) for row in rows] == [Fraction(n, 24) for n in range(113)]
    assert [Fraction(row["made_num"], row["made_den"]) for row in rows] == [Fraction(n, 30) for n in range(113)]
    assert {row["prompt"] for row in rows} == {"fog"}
    assert [row["frame"] for row in rows if row["kind"] == "key"] == list(range(0, 113, 16))


@quickly
def test_a_run_runs_again_as_it_is_written(foggy: Path, made: Made, tmp_path: Path) -> None:
    """Its scenario.yaml holds the prompt and both rates; and the same weights twice are the same bits."""
    assert run(tmp_path / "again", made.weights, str(foggy / "scenario.yaml")) == 0
    assert (tmp_path / "again" / "video.mp4").read_bytes() == (foggy / "video.mp4").read_bytes()


@quickly
@pytest.mark.parametrize(("key", "fps"), [("fps: 7.5", Fraction(6)), ("fps: 7.5\nplayed: 10", Fraction(10))])
def test_other_rates(made: Made, tmp_path: Path, key: str, fps: Fraction) -> None:
    (tmp_path / "s.yaml").write_text(f"labels: {{prompt: fog}}\nseconds: 1\n{key}\n")
    assert run(tmp_path / "out", made.weights, str(tmp_path / "s.yaml")) == 0
    info = video.probe(tmp_path / "out" / "video.mp4")
    assert (info.fps, info.frames) == (fps, 2 * 4 + 1), "a second is that of the world, not of the file"


def test_the_preflight_writes_nothing(made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path / "out", made.weights, "--prompt", "fog", "--dry-run") == 0
    said = capsys.readouterr().out
    assert said.startswith("generate will take about") and "113 frames" in said and "keyframes 1 x" in said
    assert "start" not in said and not (tmp_path / "out").exists()


def test_the_page_shows_keyframes(foggy: Path, tmp_path: Path) -> None:
    copied = shutil.copytree(foggy, tmp_path / "run")
    assert cli.main(["report", str(copied)]) == 0
    page = (copied / "report.html").read_text()
    assert "113 frames of 64x64 at 24 frames a second" in page and "The first key-frames, 3/2 a second" in page


# --- killed and resumed -----------------------------------------------------------------------------------------------


@quickly
@pytest.mark.parametrize("moment", ["interpolation", "remux"])
def test_killed_and_resumed_is_uninterrupted(
    foggy: Path, made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    def dies(*_: object, **__: object) -> None:
        raise RuntimeError("the machine died")

    with monkeypatch.context() as broken:
        if moment == "remux":
            broken.setattr(engine.video, "remux", dies)
        else:
            broken.setattr(engine.Interpolator, "__call__", dies)
        assert run(tmp_path / "run", made.weights, "--prompt", "fog") == 1
    assert not (tmp_path / "run" / "video.mp4").exists()
    assert run(tmp_path / "run", made.weights, "--prompt", "fog", "--resume") == 0
    assert (tmp_path / "run" / "video.mp4").read_bytes() == (foggy / "video.mp4").read_bytes()


def test_resumed_with_other_words_for_time_is_another_plan(
    foggy: Path, made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copied = shutil.copytree(foggy, tmp_path / "run")
    assert run(copied, made.weights, "--prompt", "fog", "--temporal-prompt", "rain", "--resume") == 2
    assert "this run has another plan (temporal_prompt differ" in capsys.readouterr().err


# --- other backbones, other temporal layers ---------------------------------------------------------------------------


@quickly
def test_one_file_of_temporal_layers_under_other_backbones(made: Made, tmp_path: Path, foggy: Path) -> None:
    file = made.weights / "keyframes.safetensors"
    given = {
        "own": (),
        "named": ("--temporal", file),
        "other": ("--backbone", made.other, "--temporal", file),
        "again": ("--backbone", made.other),
        "wider": ("--backbone", made.wider),
    }
    for name, words in given.items():
        assert run(tmp_path / name, made.weights, "--prompt", "fog", *KEYS_ALONE, *map(str, words)) == 0
    films = {name: (tmp_path / name / "segments" / "000000.mp4").read_bytes() for name in given}
    frames = {name: shown(tmp_path / name) for name in given}
    assert np.array_equal(frames["own"], frames["named"]) and films["other"] == films["again"]
    for one, two in (("own", "other"), ("own", "wider"), ("other", "wider")):
        assert np.abs(frames[one].astype(int) - frames[two]).mean() > 3
    hashes = json.loads((tmp_path / "other" / "run.json").read_text())["weights"]
    assert hashes["text"] == identity(made.other / "text") and hashes["temporal-text"] == identity(
        made.weights / "text"
    )
    assert hashes["image"] == disk.sha256(made.other / "image.safetensors")
    assert hashes["keyframes"] == disk.sha256(file)


@quickly
def test_the_interpolation_of_a_borrowed_backbone_is_told_by_its_own_text_encoder(made: Made, tmp_path: Path) -> None:
    """Its tokens are 16 wide, those of the backbone 24: it cannot be told by any other."""
    assert run(tmp_path / "out", made.weights, "--prompt", "fog", "--backbone", str(made.wider)) == 0
    assert video.probe(tmp_path / "out" / "video.mp4").frames == 113


@quickly
@pytest.mark.parametrize("off", [False, True])
def test_words_for_the_temporal_layers(made: Made, tmp_path: Path, off: bool) -> None:
    """They change the video, and nothing where there are no such layers; the noise is the same either way."""
    videos = []
    for n, more in enumerate([(), ("--temporal-prompt", "fog"), ("--temporal-prompt", "rain at night")]):
        words = ("--temporal", "off") if off else ()
        assert run(tmp_path / str(n), made.weights, "--prompt", "fog", *KEYS_ALONE, *words, *more) == 0
        videos.append(shown(tmp_path / str(n)))
    assert np.array_equal(videos[0], videos[1])
    assert np.array_equal(videos[0], videos[2]) == off


def test_dropped_words_are_dropped_for_both(made: Made) -> None:
    """Guidance leads away from the empty prompt, which each text encoder says in its own way."""
    whole = stack.load(made.weights, precision="32", backbone=made.wider)
    own, other = stack.load(made.weights, precision="32"), stack.load(made.wider, precision="32", temporal="off")
    assert whole.apart and not own.apart and own.null_temporal is not None and whole.null_temporal is not None
    assert torch.equal(whole.null_temporal, own.tokens([Labels()])[0])
    assert torch.equal(whole.null_tokens, other.tokens([Labels(prompt="")])[0])


# --- without temporal layers: diffusers -------------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["zero", "first"])
def test_without_temporal_layers_frames_are_those_of_diffusers(made: Made, end: str) -> None:
    from diffusers import DDIMScheduler

    sampler = SamplerConfig(steps=5, spacing="leading", offset=1, end=end)
    settings = RolloutConfig(sampler=sampler, guidance=GuidanceConfig(labels=7.5))
    scenario = Scenario(labels=Labels(prompt="a foggy road"), seeds=[3])
    rollout = planned(made, scenario, settings, temporal="off")
    assert (rollout.plan.keyframes, rollout.plan.count, rollout.plan.passes, rollout.plan.factor) == (T, 1, 0, 1)
    predict = engine.Predictor(rollout.stack, settings, rollout.noise, rollout.told, rollout.plan.frames)
    latents = predict(rollout.plan.window(0), rollout.context())
    pixels = engine.stages.to_pixels(rollout.stack.decode(latents))
    theirs = made.theirs
    values = {**theirs.scheduler.config, "set_alpha_to_one": end == "zero"}
    theirs.scheduler = DDIMScheduler.from_config(values)
    theirs.set_progress_bar_config(disable=True)
    for k in range(T):
        noise = rollout.noise("keyframes", [16 * k], START, rollout.stack.latent_shape)[0]
        given = {"num_inference_steps": 5, "guidance_scale": 7.5, "eta": 0.0, "latents": noise}
        wanted = theirs("a foggy road", **given, output_type="latent").images[0]
        found = latents[k] / rollout.stack.std[:, None, None]
        assert float((found - wanted).norm() / wanted.norm()) < 1e-4
        picture = np.asarray(theirs("a foggy road", **given).images[0]).astype(int)
        assert np.abs(picture - pixels[k]).max() <= 1


@quickly
def test_without_temporal_layers_no_weights_of_them_are_needed(made: Made, tmp_path: Path) -> None:
    """And every key-frame is for itself: a longer run begins with the shorter one."""
    assert run(tmp_path / "a", made.other, "--prompt", "fog", "--temporal", "off") == 0
    assert run(tmp_path / "b", made.other, "--prompt", "fog", "--temporal", "off", "--minutes", "0.1") == 0
    assert video.probe(tmp_path / "a" / "video.mp4").fps == Fraction(3, 2)
    assert len(shown(tmp_path / "a")) == 8 and len(shown(tmp_path / "b")) == 13
    assert np.abs(shown(tmp_path / "a").astype(int) - shown(tmp_path / "b")[:8]).max() <= 1


# --- longer than trained ----------------------------------------------------------------------------------------------


@quickly
def test_longer_than_trained_is_one_window(made: Made, tmp_path: Path) -> None:
    assert run(tmp_path / "long", made.weights, "--prompt", "fog", *KEYS_ALONE, "--minutes", "0.1") == 0
    plan = json.loads((tmp_path / "long" / "plan.json").read_text())
    assert plan["plan"]["frames"] == plan["plan"]["keyframes"] == 13 and len(plan["windows"]) == 1
    assert len(shown(tmp_path / "long")) == 13


@quickly
@pytest.mark.parametrize("change", [{"alpha": "frame"}, {"positions": "absolute"}])
def test_what_cannot_be_longer_says_how_long_it_can_be(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], change: dict[str, Any]
) -> None:
    keyframes(folder, folder / "keyframes.safetensors", replace(KEYS, **change))
    assert run(tmp_path / "out", folder, "--prompt", "fog", "--minutes", "0.1") == 2
    said = capsys.readouterr().err
    assert "13 key-frames: these weights make 8 at once" in said and "at most 3.73 seconds" in said
    assert "alpha: scalar and positions: relative" in said and not (tmp_path / "out").exists()
    (tmp_path / "s.yaml").write_text("seconds: 3.73\nlabels: {prompt: fog}\nfps: 15/8\n")
    assert run(tmp_path / "out", folder, str(tmp_path / "s.yaml")) == 0 and len(shown(tmp_path / "out")) == 8


def test_the_weights_are_looked_at_as_a_whole(made: Made, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["weights", "check", str(made.weights)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [Path(line.split(": ")[0]).name for line in lines] == [
        "autoencoder.safetensors", "image.safetensors", "interpolation.safetensors", "keyframes.safetensors", "text",
    ]  # fmt: skip
    assert all("fits" in line for line in lines) and "77 tokens of 16" in lines[-1]


# --- mistakes ---------------------------------------------------------------------------------------------------------


def failed(capsys: pytest.CaptureFixture[str], *given: object) -> str:
    assert run(*given) == 2
    said = capsys.readouterr().err
    assert 1 <= len(said.strip().splitlines()) <= 3
    return said


@pytest.mark.parametrize(
    ("scenario", "words", "says"),
    [
        ("", ("--prompt", "a" * 80), "labels.prompt: the prompt has 80 tokens, the text encoder reads 75\n  end it"),
        ("", ("--prompt", "fog", "--temporal-prompt", "b" * 80), "temporal_prompt: the prompt has 80 tokens"),
        ("labels:\n  prompt: " + "a" * 80, (), "s.yaml line 2: labels.prompt: the prompt has 80 tokens"),
        ("labels: {night: true}", (), "s.yaml line 1: labels.night: these weights are told in words\n  say it there"),
        ("labels: {prompt: fog, cars: 3}", (), "labels.cars: these weights are told in words"),
        ("opening: {generate: {night: false}}", (), "opening.generate.night: these weights are told in words"),
        (
            "",
            ("--prompt", "fog", "--opening", "a.mp4"),
            "every frame from noise, and are given none\n  leave the opening",
        ),
        ("played: fast", (), "line 1: played: a rate above 0 is expected, not 'fast'"),
        ("", ("--prompt", "fog", "--size", "128x128"), "these weights make 64x64 frames, not 128x128"),
        ("", ("--temporal", "nowhere.safetensors"), "no such file of temporal layers"),
    ],
)
def test_what_does_not_fit_the_weights(
    made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str], scenario: str, words: tuple[str, ...], says: str
) -> None:
    (tmp_path / "s.yaml").write_text(f"{scenario}\n")
    assert says in failed(
        capsys, tmp_path / "out", made.weights, *([str(tmp_path / "s.yaml")] if scenario else []), *words
    )
    assert not (tmp_path / "out").exists()


def test_public_pipelines_are_to_be_converted(made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mend = f"drivesim weights convert {made.pipeline} --out W"
    for given in ((made.pipeline,), (made.weights, "--backbone", str(made.pipeline))):
        assert mend in failed(capsys, tmp_path / "out", *given, "--prompt", "fog")


Spoil = Callable[[Path], Any]


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda w: shutil.rmtree(w / "text"), "no text encoder, and the models are told words"),
        (
            lambda w: (w / "keyframes.safetensors").unlink(),
            "with --temporal off every key-frame is an image for itself",
        ),
        (
            lambda w: (w / "text" / "merges.txt").write_text("#version: 0.2\na b</w>\n"),
            "trained on another text",
        ),
        (lambda w: keyframes(w, w / "keyframes.safetensors", interface="0" * 12), "interface 000000000000, here "),
        (lambda w: keyframes(w, w / "keyframes.safetensors", fps="2"), "trained at 2 frames a second"),
        (lambda w: keyframes(w, w / "keyframes.safetensors", replace(KEYS, cross=OTHER)), "told tokens 24 wide"),
        (lambda w: interpolation(w, w / "interpolation.safetensors", cross=OTHER), "told tokens 24 wide"),
        (
            lambda w: interpolation(w, w / "interpolation.safetensors", in_channels=13, out_channels=6),
            "makes latents of 6 channels",
        ),
    ],
)
def test_weights_that_do_not_fit_each_other(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], spoil: Spoil, says: str
) -> None:
    spoil(folder)
    assert says in failed(capsys, tmp_path / "out", folder, "--prompt", "fog")


def test_a_backbone_of_another_interface(
    made: Made, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The error names both; a parent's hash is not asked for, which of another backbone is another anyway."""
    header = weights.header(folder / "image.safetensors")
    wider = replace(unet_config(header.config), channels=(16, 64))
    own = replace(header, config=config.plain(wider), interface=interface(wider))
    weights.save(folder / "image.safetensors", ImageModel(wider).state_dict(), own)
    said = failed(capsys, tmp_path / "out", made.weights, "--prompt", "fog", "--backbone", str(folder))
    assert (
        f"interface {header.interface}, here {own.interface}" in said and "take an image model of the same make" in said
    )


def test_a_backbone_needs_no_file_of_its_own_but_the_three(made: Made) -> None:
    assert not (made.other / "keyframes.safetensors").exists()
    found = stack.load(made.weights, precision="32", backbone=made.other)
    assert found.temporal and found.interpolation is not None and found.interpolation.whole
    off = stack.load(made.weights, precision="32", backbone=made.other, temporal="off")
    assert not off.temporal and off.interpolation is None and off.temporal_tokens is None
    assert set(off.weights) == {"autoencoder", "image", "text"}


def test_weights_that_are_told_labels_take_no_words(tmp_path: Path) -> None:
    from tests.rollout.mock import stack as mocked

    for given in (Scenario(labels=Labels(prompt="fog")), Scenario(temporal_prompt="fog")):
        with pytest.raises(Mistake, match="these weights are told no words"):
            prepare(mocked(), given, 0, RolloutConfig())
