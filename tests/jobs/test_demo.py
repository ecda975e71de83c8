"""The demo on a micro world: every step in its order, one page at the end."""

import json
from pathlib import Path

import pytest
import yaml

from drivesim.data import video
from drivesim.errors import Mistake
from drivesim.jobs import demo

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
    page = demo.run(out, seed=3)
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
