"""Scenario files: what loads, what is refused, and in which words."""

from fractions import Fraction
from pathlib import Path

import pytest

from drivesim.errors import Mistake
from drivesim.rollout import scenario as scenarios
from drivesim.rollout.scenario import Opening, Scenario
from drivesim.scene import Labels


def written(folder: Path, text: str) -> Path:
    file = folder / "scenario.yaml"
    file.write_text(text)
    return file


def test_a_real_opening(tmp_path: Path) -> None:
    text = "opening: {clip: drive.mp4, at: 1.5, frames: 1}\nseconds: 20\nfps: 15/2\n"
    text += "seeds: [3, 4]\nguidance: {context: 2}\n"
    scenario = scenarios.load(written(tmp_path, text))
    assert scenario.opening == Opening(clip=str(tmp_path.resolve() / "drive.mp4"), at=1.5, frames=1)
    assert scenario.rate == Fraction(15, 2) and scenario.seeds == [3, 4] and scenario.told == Labels()
    assert scenario.guidance.context == 2 and scenario.guidance.labels is None


def test_a_generated_opening_hands_its_labels_on(tmp_path: Path) -> None:
    scenario = scenarios.load(written(tmp_path, "opening: {generate: {night: true, cars: 4}}\n"))
    assert scenario.opening.given == 1 and scenario.told == Labels(night=True, cars=4)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("secnds: 20", "secnds.*\n.*'seconds'"),
        ("opening: {clp: x.mp4}", "opening.clp.*\n.*'clip'"),
        ("boxes: some", "boxes"),
        ("boxes: tracks", "there are none"),
        ("tracks: [{id: a, class: car, keys: [{t: 0, box: [0, 0, 1, 1]}]}]", "need boxes: tracks"),
        ("opening: {labels: a.json}", "only a clip"),
        ("{boxes: tracks, tracks: [{id: a, class: lorry, keys: [{t: 0, box: [0, 0, 1, 1]}]}]}", "no class 'lorry'"),
        ("opening: {clip: a.mp4, generate: {night: true}}", "not both"),
        ("opening: {clip: a.mp4, frames: 3}", "1 or 2"),
        ("seconds: -1", "above 0"),
        ("seconds: .nan", "above 0"),
        ("fps: fast", "fps"),
        ("version: 2", "version"),
        ("seeds: []", "seeds"),
        ("seeds: [1, 1]", "twice"),
        ("seconds: [1]", "seconds"),
    ],
)
def test_refused(tmp_path: Path, text: str, words: str) -> None:
    file = written(tmp_path, text)
    with pytest.raises(Mistake, match=words) as caught:
        scenarios.load(file)
    assert "scenario.yaml" in str(caught.value)


def test_opening_on_the_command_line(tmp_path: Path) -> None:
    assert scenarios.parse_opening("/a/b.mp4@12.5") == Opening(clip="/a/b.mp4", at=12.5)
    assert scenarios.parse_opening("/a/b.mp4") == Opening(clip="/a/b.mp4")
    odd = tmp_path / "drive@night.mp4"
    odd.touch()
    assert scenarios.parse_opening(str(odd)).clip == str(odd)
    with pytest.raises(Mistake, match="soon"):
        scenarios.parse_opening("/a/b.mp4@soon")


def test_noise_identity_is_the_opening_and_the_labels() -> None:
    base = Scenario(opening=Opening(clip="/here/a.mp4"))
    assert base.identity("sha") == Scenario(
        opening=Opening(clip="/there/b.mp4"), seconds=7, fps=30, seeds=[5]
    ).identity("sha")
    assert base.identity("sha") != base.identity("other")
    assert base.identity("sha") != Scenario(opening=Opening(clip="/here/a.mp4"), labels=Labels(night=True)).identity(
        "sha"
    )
