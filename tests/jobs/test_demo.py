"""The demo on a micro world: every step in its order, one page at the end; and with the weights that come along."""

import json
import shutil
from pathlib import Path

import pytest
import yaml

from drivesim import disk, weights
from drivesim.data import video
from drivesim.data.latents import LatentCache
from drivesim.errors import Mistake
from drivesim.jobs import demo, doctor, encode, index, stack, tiny
from drivesim.jobs import weights as checked
from drivesim.jobs.builders.backbone import in_folder
from drivesim.scene import KEYFRAME_FPS

LOOP = {"steps": 2, "batch": 2, "ema": 0.5, "precision": "32-true"}
CONFIGS = {
    "world": {"name": "w", "kind": "world", "clips": 3, "seconds": 6, "fps": "15/8", "size": [32, 64], "val": 0.0},
    "held": {
        "name": "h",
        "kind": "world",
        "clips": 6,
        "seconds": 20,
        "fps": "15/8",
        "size": [32, 64],
        "seed": 1,
        "val": 1.0,
    },
    "autoencoder": {
        "size": [32, 64],
        "fps": "15/8",
        "statistics": 4,
        "model": {"channels": [8], "blocks": 1, "attention": False, "groups": 4, "patch": 4},
        "loss": {"adversarial": 0.0, "perceptual": 0.1},
        "loop": LOOP,
    },
    "image": {
        "model": {"channels": [16, 16], "blocks": 1, "attention": [False, True], "cross": 8, "groups": 4},
        "schedule": {"betas": "cosine"},
        "loop": LOOP,
    },
    "keyframes": {"temporal": {"frames": 4, "depth": 1, "context_channels": 8, "spread": [0, 1]}, "loop": LOOP},
}


@pytest.fixture
def micro(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, values in CONFIGS.items():
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(values))
    monkeypatch.setattr(demo, "CONFIGS", tmp_path)
    monkeypatch.setattr(demo, "SIZE", (32, 64))
    monkeypatch.setattr(demo, "SECONDS", 20.0)
    monkeypatch.setattr(demo, "SETTINGS", ["sampler.steps=1"])
    return tmp_path


def test_it_ends_in_a_page_with_scored_drives(micro: Path) -> None:
    out = micro / "demo"
    page = demo.run(out, seed=3, train=True)
    assert page == out / "report.html" and b"data:video/mp4;base64," in page.read_bytes()
    assert b"Real footage, to compare with" in page.read_bytes()
    films = sorted(out.glob("drives/*/video.mp4"))
    assert 1 <= len(films) <= 3
    info = video.probe(films[0])
    assert (info.frames, float(info.fps)) == (38 * 4 + 1, 7.5)  # 20 s are 39 key-frames, the last one past the end
    score, *others = json.loads((out / "scores.json").read_text())
    assert [other["metric"] for other in others] == ["kvd[builtin-v1]", "fid[builtin-v1]"]
    assert score["metric"] == "fvd[builtin-v1]" and set(score["controls"]) == {"frozen", "shuffled"}
    run = json.loads((out / "run.json").read_text())
    assert run["status"] == "done" and set(run["seconds"]) >= {"world", "autoencoder", "generate", "evaluate"}
    with pytest.raises(Mistake, match="not empty"):
        demo.run(out)


def test_with_the_weights_that_come_along(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorter than a user has it; the drives and the models are the same."""
    monkeypatch.setattr(demo, "WORLD", {**demo.WORLD, "clips": 8, "seconds": 19})
    monkeypatch.setattr(demo, "MINUTE", 9.0)
    page = demo.run(tmp_path / "demo").read_text()
    films = sorted((tmp_path / "demo").glob("drives/*/video.mp4"))
    assert [film.parent.name.partition("-")[0] for film in films] == ["day", "night"]
    info = video.probe(films[0])
    assert (info.height, info.width, float(info.fps)) == (128, 256, 7.5)
    scores = {score["metric"]: score["value"] for score in json.loads((tmp_path / "demo" / "scores.json").read_text())}
    assert set(scores) >= {"fvd[builtin-v1]", "ap50"}, scores
    assert scores["ap50"] > 0.25, "the traffic is where it was told to be"
    assert "detector-v1" in page


def test_the_weights_that_come_along(tmp_path: Path) -> None:
    """Together at most 16 MB, made of each other, and found by their name wherever nothing else has it."""
    files = sorted(tiny.FOLDER.glob("*.safetensors"))
    assert sum(file.stat().st_size for file in files) <= 16_000_000
    headers = {file.stem: weights.header(file, file.stem) for file in files}
    assert {"autoencoder", "image", "keyframes"} <= set(headers)
    for header in headers.values():
        assert header.size == (128, 256)
        for parent, sha in header.parents.items():
            assert sha == disk.sha256(tiny.FOLDER / f"{parent}.safetensors")
    shipped = stack.load(tiny.FOLDER)
    assert shipped.usual is not None and shipped.usual.width == 0.75
    over_another = stack.load(tiny.FOLDER, temporal=shutil.copy(tiny.FOLDER / "keyframes.safetensors", tmp_path))
    assert over_another.usual is not None and over_another.usual.width is None, "measured with these models alone"
    card = (tiny.FOLDER / "README.md").read_text()
    assert all(disk.sha256(file) in card for file in files)
    assert tiny.named(Path("tiny")) == tiny.FOLDER and tiny.named(tmp_path) == tmp_path


def test_every_command_that_takes_weights_knows_their_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    held = {file.stem for file in tiny.FOLDER.glob("*.safetensors")}
    lines = checked.run("check", Path("tiny"))
    assert len(lines) == len(held) and all(line.endswith("every one fits") for line in lines)
    assert held <= {name for name, _ in doctor.findings(Path("tiny"))}
    assert in_folder("tiny").is_file()
    (tmp_path / "world.yaml").write_text(
        "name: w\nkind: world\nclips: 1\nseconds: 2\nfps: 15/8\nsize: [32, 64]\nval: 0.0\n"
    )
    index.run(tmp_path / "world.yaml", tmp_path / "index")
    encode.run(tmp_path / "index", Path("tiny"), tmp_path / "cache", KEYFRAME_FPS, (32, 64))
    about = LatentCache.open(tmp_path / "cache").about
    assert about.autoencoder == disk.sha256(tiny.FOLDER / "autoencoder.safetensors")
