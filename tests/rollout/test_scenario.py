"""Scenario files: what loads, what is refused, and in which words."""

import re
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from drivesim import config, yamlfile
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


TRACKS = """version: 1
boxes: tracks
tracks:
- id: 7
  class: car
  keys:
  - {t: 0, box: [0.1, 0.2, 0.3, 0.4]}
  - {t: 1, box: [0.2, 0.2, 0.4, 0.4], visibility: 0.5, gone: true}
edits:
- {op: shift, track: 7, by: [0.1, 0]}
- {op: retime, track: 7, speed: 2}
- op: insert
  track: bus
  class: bus
  keys: [{t: 0, box: [0, 0, 1, 1]}]
"""
# in TRACKS, what is written for what, and what is said of it
WRONG = [
    ("version: 1", "version: 2", "line 1: version: 1 is expected, not 2"),
    ("version: 1", "secnds: 1", "line 1: secnds: no such key\n.*'seconds'"),
    ("version: 1", "version: null", "line 1: version: a value is expected, not null"),
    ("version: 1", "opening: {clp: x.mp4}", "line 1: opening.clp: no such key\n.*'clip'"),
    ("version: 1", "opening: {clip: a.mp4, frames: 3}", "line 1: opening.frames: 1 or 2 is expected, not 3\n  fra"),
    ("version: 1", "seconds: -1", "line 1: seconds: a number greater than 0 is expected, not -1\n  seconds: length of"),
    ("version: 1", "seconds: .nan", "line 1: seconds: a number less than"),
    ("version: 1", "seconds: [1]", "line 1: seconds: a number is expected"),
    ("version: 1", "fps: -3", "line 1: fps: a number greater than 0"),
    ("version: 1", "seeds: []", "line 1: seeds: a list of at least 1 item is expected"),
    ("version: 1", "seeds: [1, -1]", r"line 1: seeds\[1\]: a number greater than or equal to 0"),
    ("version: 1", "labels: {night: 3}", "line 1: labels.night: true or false is expected, not 3"),
    ("version: 1", "labels: {cars: -3}", "line 1: labels.cars: a number greater than or equal to 0"),
    ("boxes: tracks", "boxes: some", 'line 2: boxes: "some" is not known\n  did you mean .none'),
    ("boxes: tracks", "boxes: none", "line 3: tracks: has no meaning with boxes: none\n  write boxes: tracks"),
    ("id: 7", "id: [7]", r"line 4: tracks\[0\].id: text or a whole number is expected, not \[7\]"),
    ("class: car\n", "clas: car\n", r"line 5: tracks\[0\].clas: no such key\n  did you mean 'class'"),
    ("class: car\n", "class: lorry\n", r'line 5: tracks\[0\].class: "lorry" is not known\n  known: bicycle, bus'),
    ("class: car\n", "class: trck\n", r"line 5: tracks\[0\].class: .*\n  did you mean 'truck'\?"),
    ("  class: car\n", "", r"line 4: tracks\[0\].class: is missing\n  class: what it is"),
    ("t: 0, box: [0.1", "t: x, box: [0.1", r'line 7: tracks\[0\].keys\[0\].t: a number is expected, not "x"\n  t: '),
    ("0.1, 0.2, 0.3, 0.4]", "0.1, 0.2, 0.3]", r"line 7: tracks\[0\].keys\[0\].box\[3\]: is missing\n  box: `x0 y0"),
    ("visibility: 0.5", "visibility: 2", r"line 8: tracks\[0\].keys\[1\].visibility: a number less than or equal to 1"),
    ("gone: true", "gone: 1", r"line 8: tracks\[0\].keys\[1\].gone: true or false is expected"),
    ("op: shift", "op: shft", r'line 10: edits\[0\].op: "shft" is not known\n  did you mean \'shift\'\?'),
    ("by: [0.1, 0]", "by: [0.1]", r"line 10: edits\[0\].by: is \[right, down\], not \[0.1\]"),
    ("by: [0.1, 0]", "to: bus", r"line 10: edits\[0\].to: has no meaning with op: shift\n  shift takes by"),
    (", by: [0.1, 0]", "", r"line 10: edits\[0\]: by is missing\n  shift takes by"),
    ("speed: 2", "speed: 0", r"line 11: edits\[1\].speed: a number greater than"),
    ("speed: 2", "by: [1, 2]", r"line 11: edits\[1\].by: is \[seconds\]"),
    (", speed: 2", "", r"line 11: edits\[1\]: by or speed is missing\n  retime takes by, speed"),
    ("class: bus\n", "class: tram\n", r'line 14: edits\[2\].class: "tram" is not known'),
    ("  class: bus\n", "", r"line 12: edits\[2\]: class is missing\n  insert takes class, keys"),
    ("track: bus", "to: car", r"line 12: edits\[2\].track: is missing"),
    ("track: bus", "track: bus\n  op: delete", r"line 14: edits\[2\].op: is given twice, first on line 12"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "instead", "words"), WRONG)
def test_what_is_wrong_is_told_with_its_line_its_field_and_the_mend(
    tmp_path: Path, text: str, instead: str, words: str
) -> None:
    scenarios.load(written(tmp_path, TRACKS))
    assert TRACKS.count(text) == 1
    file = written(tmp_path, TRACKS.replace(text, instead))
    with pytest.raises(Mistake, match=f"^{re.escape(str(file))} {words}") as caught:
        scenarios.load(file)
    assert len(str(caught.value).splitlines()) <= 3


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("boxes: tracks", "line 1: boxes: there are no tracks\n  add tracks"),
        ("opening: {labels: a.json}", "line 1: opening.labels: only a clip"),
        (
            "opening:\n  clip: a.mp4\n  generate: {night: true}",
            "line 3: opening.generate: the opening is a clip already",
        ),
        ("opening:\n  keep: true", "line 2: opening.keep: only a clip has frames to keep"),
        ("opening:\n  clip: a.mp4\n  format: kitti", "line 3: opening.format: there are no labels"),
        ("fps: fast", "line 1: fps: a rate above 0 is expected, not 'fast'\n  such as 30"),
        ("fps: 1/0", "line 1: fps: a rate above 0"),
        ("seeds: [1, 1]", "line 1: seeds: a seed is named twice"),
    ],
)
def test_values_that_do_not_fit_each_other(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(Mistake, match=f"scenario.yaml {words}"):
        scenarios.load(written(tmp_path, text))


def test_options_are_held_to_what_a_file_is() -> None:
    with pytest.raises(Mistake, match="^seconds: a number less than"):
        scenarios.check(Scenario(seconds=1e9))


def valid(instance: Any) -> bool:
    return bool(Draft202012Validator(scenarios.json_schema()).is_valid(instance))


def test_the_schema_takes_what_a_scenario_is_and_nothing_else(tmp_path: Path) -> None:
    Draft202012Validator.check_schema(scenarios.json_schema())
    assert valid({}) and valid(config.plain(Scenario())) and valid(yamlfile.parse(TRACKS))
    pages = [Path(__file__).parents[2] / name for name in ("README.md", "docs/labels.md")]
    examples = [text for page in pages for text in re.findall("```yaml\n(version: .*?)```", page.read_text(), re.S)]
    for text in examples:
        assert valid(yamlfile.parse(text)) and scenarios.load(written(tmp_path, text))
    assert len(examples) >= 2


@pytest.mark.parametrize(("text", "instead", "words"), WRONG)
def test_the_schema_refuses_what_check_refuses_of_one_value(text: str, instead: str, words: str) -> None:
    if "given twice" in words or ".nan" in instead or "has no meaning with boxes" in words:
        return  # JSON knows neither, and what fits together is for ``check``
    assert not valid(yamlfile.parse(TRACKS.replace(text, instead)))


def test_the_schema_explains_every_field() -> None:
    found = scenarios.json_schema()
    objects = [found, *found["$defs"].values()]
    assert [name for each in objects for name, field in each["properties"].items() if "description" not in field] == []


def test_opening_on_the_command_line(tmp_path: Path) -> None:
    assert scenarios.parse_opening("/a/b.mp4@12.5") == Opening(clip="/a/b.mp4", at=12.5)
    assert scenarios.parse_opening("/a/b.mp4") == Opening(clip="/a/b.mp4")
    odd = tmp_path / "drive@night.mp4"
    odd.touch()
    assert scenarios.parse_opening(str(odd)).clip == str(odd)
    with pytest.raises(Mistake, match="soon"):
        scenarios.parse_opening("/a/b.mp4@soon")


def test_what_was_made_before_there_were_words_keeps_its_noise() -> None:
    night = Scenario(opening=Opening(generate=Labels(night=True, cars=4)))
    day = Scenario(opening=Opening(clip="a"), labels=Labels(night=False))
    found = [Scenario().identity(""), night.identity(""), day.identity("sha")]
    assert found == ["22caf0045011", "7d58ca1f92ec", "541107c77e93"]
    words = Scenario(labels=Labels(prompt="fog"))
    assert words.identity("") != Scenario().identity("") != Scenario(labels=Labels(prompt="")).identity("")
    for same in ({"temporal_prompt": "rain"}, {"played": 24}, {"seconds": 4}):
        assert replace(words, **same).identity("") == words.identity("")


def test_noise_identity_is_the_opening_and_the_labels() -> None:
    base = Scenario(opening=Opening(clip="/here/a.mp4"))
    assert base.identity("sha") == Scenario(
        opening=Opening(clip="/there/b.mp4"), seconds=7, fps=30, seeds=[5]
    ).identity("sha")
    assert base.identity("sha") != base.identity("other")
    assert base.identity("sha") != Scenario(opening=Opening(clip="/here/a.mp4"), labels=Labels(night=True)).identity(
        "sha"
    )
