"""The page is whole, fetches nothing, escapes what it is given, and holds what a run folder holds."""

import json
import re
import warnings
from fractions import Fraction

import numpy as np
import pytest

from drivesim.data.video import Writer
from drivesim.errors import Mistake
from drivesim.jobs import report as job
from drivesim.report import Curves, Facts, Page, Picture, Scores, Section, Video, Words, contact_sheet, curves, write
from drivesim.report.page import render

SCORE = {
    "metric": "fvd[builtin-v1]", "value": 12.5, "n_real": 30, "n_generated": 12, "floor": 3.0,
    "controls": {"frozen": 80.0, "shuffled": 60.0}, "warnings": ["only 12 <clips>"],
    "left_out": [{"reason": "shorter than a clip", "count": 2, "examples": ["a.mp4"]}],
    "receipt": {"frames": 16, "fps": "15/8", "extractor": {"name": "builtin-v1", "sha": "ab"}},
}  # fmt: skip


@pytest.fixture
def film(tmp_path):
    with Writer(tmp_path / "video.mp4", (32, 64), Fraction(15, 2)) as writer:
        writer.write(np.random.default_rng(0).integers(0, 255, (20, 32, 64, 3), dtype=np.uint8))
    return tmp_path / "video.mp4"


def metrics(file, rows=900):
    lines = ["epoch,step,train_loss,val_loss"]
    lines += [f"0,{n},{100 / (n + 1)}," for n in range(rows)] + ["0,10,,0.5", "0,20,,nan", "0,30,,0.25", "0,3"]
    file.write_text("\n".join(lines))
    return file


def test_a_contact_sheet_shows_each_frame_in_its_place():
    frames = np.stack([np.full((8, 10, 3), 20 * n, np.uint8) for n in range(5)])
    sheet = contact_sheet(frames, 3, [f"{n}" for n in range(5)])
    assert sheet.dtype == np.uint8 and sheet.shape[1] == 3 * 16 + 6
    for value in range(5):
        top, left = 6 + value // 3 * (8 + 18 + 6), 6 + value % 3 * 16
        assert (sheet[top : top + 8, left : left + 10] == 20 * value).all()
    assert contact_sheet(frames, 3, ["x"] * 5, width=20).shape[1] == 3 * 26 + 6
    with pytest.raises(ValueError, match="5 frames and 1"):
        contact_sheet(frames, 3, ["x"])


def test_curves_are_read_finite_and_drawn_the_same_twice(tmp_path):
    series = curves.read(metrics(tmp_path / "metrics.csv"))
    assert set(series) == {"train_loss", "val_loss"}
    assert series["val_loss"][1].tolist() == [0.5, 0.25]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        svg = curves.draw(series)
    assert svg.startswith("<svg") and "train_loss" in svg and svg == curves.draw(series)
    assert curves.draw({}) == ""


def test_thinning_keeps_the_mean():
    x, y = curves.thinned(np.arange(1000.0), np.arange(1000.0) * 2, most=100)
    assert len(x) == 100 and y.mean() == pytest.approx(999, rel=1e-3)


def test_a_page_is_self_contained_and_escaped(film, tmp_path):
    blocks = [
        Words("5 < 6 <script>alert(1)</script>"), Video(film, "a film"),
        Picture(np.zeros((4, 4, 3), np.uint8), "dark", lossless=True),
        Curves(metrics(tmp_path / "metrics.csv")), Scores([SCORE]), Facts({"seconds": {"keyframes": 3}}),
    ]  # fmt: skip
    page = write(Page("A & B", "lead", [Section("All", blocks)]), tmp_path / "page.html").read_text()
    assert "<script>" not in page and "A &amp; B" in page and "only 12 &lt;clips&gt;" in page
    assert "data:video/mp4;base64," in page and "data:image/png;base64," in page and "<svg" in page
    assert not re.search(r"""(src|href)=["'](?!data:|#)""", page)
    assert page.index("generated</span>") < page.index("control: shuffled") < page.index("control: frozen")
    assert not list(tmp_path.glob(".*.part"))


def test_a_score_without_floor_and_controls_is_shown():
    bare = SCORE | {"floor": None, "controls": {}, "warnings": [], "left_out": []}
    assert "12.50" in render(Page("t", "l", [Section("s", [Scores([bare])])]))


def test_a_run_folder_becomes_a_page(film):
    folder = film.parent
    (folder / "scores.json").write_text(json.dumps([SCORE]))
    (folder / "run.json").write_text(
        json.dumps({"status": "done", "argv": ["drivesim", "generate"], "weights": {"image": "a" * 64}})
    )
    (folder / "plan.json").write_text(json.dumps({"plan": {"factor": 4}}))
    (folder / "stage").mkdir()
    metrics(folder / "stage" / "metrics.csv")
    page = job.run(folder).read_text()
    for part in (
        "Scores",
        "Video",
        "Training",
        "How it was made",
        "every 4th is a key-frame",
        "drivesim generate",
        "stage",
    ):
        assert part in page
    assert "a" * 17 not in page


def test_folders_without_anything_to_show(tmp_path):
    with pytest.raises(Mistake, match="no such run folder"):
        job.run(tmp_path / "none")
    with pytest.raises(Mistake, match="holds no video"):
        job.run(tmp_path)
    (tmp_path / "scores.json").write_text("{ not whole")
    with pytest.raises(Mistake, match="holds no video"):
        job.run(tmp_path)
    assert not (tmp_path / "report.html").exists()
