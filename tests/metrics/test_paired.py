"""Pairs of videos against numbers worked out by hand and by another library."""

from fractions import Fraction

import cv2
import numpy as np
import pytest
import torch

from drivesim.data.gather import Source
from drivesim.data.video import Writer, read
from drivesim.errors import Mistake
from drivesim.jobs import evaluate
from drivesim.metrics import paired
from drivesim.world import render

FPS = Fraction(15)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """``true`` and ``blurred`` drives of the same names."""
    place = tmp_path_factory.mktemp("pairs")
    for seed in range(2):
        frames = render(seed, Fraction(70, 15), FPS, (64, 128)).frames
        blurred = np.stack([cv2.GaussianBlur(frame, (0, 0), 0.3 + n / 40) for n, frame in enumerate(frames)])
        for name, content in (("true", frames), ("blurred", blurred)):
            with Writer(place / name / f"{seed}.mp4", (64, 128), FPS) as writer:
                writer.write(content)
    return place


def compare(real, generated, **kwargs):
    look = paired.perceptual(torch.device("cpu"))[1]
    return paired.compare(Source(real), Source(generated), kwargs.get("fps"), torch.device("cpu"), look)


def test_values_of_every_frame(folders):
    found = compare(folders / "true" / "0.mp4", folders / "blurred" / "0.mp4")
    x, y = (read(folders / name / "0.mp4", frames=70).frames for name in ("true", "blurred"))
    wanted = [cv2.PSNR(a, b) for a, b in zip(x, y, strict=True)]
    np.testing.assert_allclose(found.values["psnr"], wanted, rtol=1e-4)
    assert found.times[:3].tolist() == pytest.approx([0, 1 / 15, 2 / 15])
    for name, sign in (("psnr", -1), ("ssim", -1), ("perceptual", 1)):
        early, late = found.values[name][:20].mean(), found.values[name][-20:].mean()
        assert sign * (late - early) > 0, name


def test_the_same_video_is_perfect(folders):
    found = compare(folders / "true" / "0.mp4", folders / "true" / "0.mp4")
    assert (found.values["psnr"] == paired.PERFECT).all() and found.values["ssim"].min() > 0.9999
    assert np.abs(found.values["perceptual"]).max() == 0


def test_the_truth_must_last_as_long(folders, tmp_path):
    with Writer(tmp_path / "short.mp4", (64, 128), FPS) as writer:
        writer.write(np.zeros((20, 64, 128, 3), np.uint8))
    with pytest.raises(Mistake, match="longer than the video that it is held against"):
        compare(tmp_path / "short.mp4", folders / "blurred" / "0.mp4")
    assert len(compare(folders / "true" / "0.mp4", tmp_path / "short.mp4").times) == 20


def test_the_command_adds_them_to_the_scores(folders, tmp_path):
    settings = evaluate.Settings(fps=FPS, cache=tmp_path, pairs=True)
    found = {score["metric"]: score for score in evaluate.run(folders / "true", folders / "blurred", settings=settings)}
    assert {"psnr", "ssim", "perceptual[builtin-v1]", "fvd[builtin-v1]"} <= found.keys()
    psnr = found["psnr"]
    assert 20 < psnr["value"] < 40 and psnr["se"] > 0 and psnr["receipt"]["protocol"] == "pairs"
    values = [window["value"] for window in psnr["curve"]]
    assert values == sorted(values, reverse=True) and len(values) == 5
    for name in ("a.mp4", "b.mp4"):
        (tmp_path / "else").mkdir(exist_ok=True)
        (tmp_path / "else" / name).write_bytes((folders / "blurred" / f"{int(name > 'a.mp4')}.mp4").read_bytes())
    with pytest.raises(Mistake, match="no generated video has the name"):
        evaluate.run(folders / "true", tmp_path / "else", settings=settings)


def test_lpips_is_used_where_its_weights_lie(tmp_path, monkeypatch):
    assert paired.perceptual(torch.device("cpu"))[0] == "perceptual[builtin-v1]"
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(paired.importlib.util, "find_spec", lambda name: object())
    assert paired.perceptual(torch.device("cpu"))[0] == "perceptual[builtin-v1]", "without the file it is not asked for"
