"""YAML and overrides become a dataclass; what does not fit is told in one short line with its key."""

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

import pytest
from annotated_types import Ge

from drivesim import config, schema
from drivesim.errors import Mistake, nearest


@dataclasses.dataclass(frozen=True)
class Net:
    """Args:
    width: of a layer,
        in channels.
    rates: of frames.
    """

    width: Annotated[int, Ge(1)] = 8
    rates: tuple[float, ...] = (1.0, 2.0)

    def __post_init__(self) -> None:
        if self.width == 13:
            raise ValueError("13 brings bad luck")


@dataclasses.dataclass(frozen=True)
class Named:
    width: Annotated[int, Ge(1)]
    cls: str


@dataclasses.dataclass(frozen=True)
class Wide:
    factor: int = 1
    net: Net = dataclasses.field(default_factory=lambda: Net(width=7))


@dataclasses.dataclass(frozen=True)
class Run:
    """What is run.

    Args:
        lr: of the optimiser.
        limit, size: of ``net``; ``None`` is none.
    """

    lr: float = 1e-3
    kind: Literal["eps", "v"] = "eps"
    limit: int | None = None
    size: tuple[int, int] = (64, 128)
    rate: float | str | None = None
    net: Net = dataclasses.field(default_factory=Net)
    second: Net | None = None
    nets: tuple[Named, ...] = ()
    wide: Wide = dataclasses.field(default_factory=lambda: Wide(net=Net(width=9, rates=(3.0,))))

    def __post_init__(self) -> None:
        if self.lr <= 0:
            raise Mistake("is above 0", field="lr", mend="such as 1e-3")


@pytest.mark.parametrize(
    ("overrides", "wanted"),
    [
        ([], Run()),
        (["lr=0.5", "kind=v"], Run(lr=0.5, kind="v")),
        (["lr=1e-4"], Run(lr=1e-4)),
        (["lr=2"], Run(lr=2.0)),
        (["net.width=3", "net.rates=[3, 4]"], Run(net=Net(3, (3.0, 4.0)))),
        (["limit=5", "limit=null"], Run()),
        (["second.width=2"], Run(second=Net(width=2))),
        (["size=[1, 2]"], Run(size=(1, 2))),
        (["wide.net.width=2"], Run(wide=Wide(1, Net(2, (3.0,))))),
        (["wide.factor=2"], Run(wide=Wide(2, Net(9, (3.0,))))),
    ],
)
def test_overrides(overrides: list[str], wanted: Run) -> None:
    assert config.load(Run, None, overrides) == wanted


def test_overrides_lie_over_the_file_and_a_number_is_of_the_declared_type(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("lr: 3\nnet: {width: 5}\n")
    loaded = config.load(Run, file, ["net.width=6"])
    assert loaded == Run(lr=3.0, net=Net(width=6)) and isinstance(loaded.lr, float)


def test_round_trip(tmp_path: Path) -> None:
    one = Run(lr=0.25, second=Net(rates=(5.0,)))
    (tmp_path / "run.yaml").write_text(config.to_yaml(one))
    assert config.load(Run, tmp_path / "run.yaml") == one
    assert config.digest(one) == config.digest(config.load(Run, tmp_path / "run.yaml")) != config.digest(Run())


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("lr=x", 'command line: lr: a number is expected, not "x"\n  lr: of the optimiser.'),
        (
            "net.width=abc",
            'command line: net.width: a whole number is expected, not "abc"\n  width: of a layer, in channels.',
        ),
        ("net.width=2.5", "command line: net.width: a whole number is expected, not 2.5"),
        ("net.width=true", "command line: net.width: a whole number is expected, not true"),
        ("net.width=0", "command line: net.width: a number greater than or equal to 1 is expected, not 0"),
        ("net.rates=[1, a]", 'command line: net.rates[1]: a number is expected, not "a"'),
        ("limit=x", 'command line: limit: a whole number is expected, not "x"'),
        ("rate=[1]", "command line: rate: a number or text is expected, not [1]"),
        ("second.width=x", 'command line: second.width: a whole number is expected, not "x"'),
        ("kind=w", 'command line: kind: "w" is not known\n  known: eps, v'),
        ("kind=epsilon", "command line: kind: \"epsilon\" is not known\n  did you mean 'eps'?"),
        ("size=[1, 2, 3]", "command line: size: a list of at most 2 items is expected, not [1, 2, 3]"),
        ("size=[1]", "command line: size[1]: is missing"),
        ("lr=null", "command line: lr: a value is expected, not null"),
        ("net=3", "command line: net: a mapping of keys is expected, not 3"),
        ("nets=[{width: 1, class: car}, {width: x, class: car}]", "command line: nets[1].width: a whole number is"),
        ("nets=[{width: 1}]", "command line: nets[0].class: is missing"),
        ("nets=[{width: 1, cls: car}]", "command line: nets[0].cls: no such key\n  did you mean 'class'?"),
        ("wdth=3", "command line: wdth: no such key"),
        ("net.wdth=3", "command line: net.wdth: no such key\n  did you mean 'width'?"),
        ("second.wdth=3", "command line: second.wdth: no such key\n  did you mean 'width'?"),
        ("net.width=13", "command line: net: 13 brings bad luck"),
        ("lr=-1", "command line: lr: is above 0\n  such as 1e-3"),
        ("net={width: 1, width: 2}", "command line: width: is given twice"),
        ("lr", "'lr' is not key=value"),
        ("lr=[", "the value of 'lr=[' is not YAML"),
    ],
)
def test_mistakes(override: str, says: str) -> None:
    with pytest.raises(Mistake) as caught:
        config.load(Run, None, [override])
    assert str(caught.value).startswith(says) and len(str(caught.value).splitlines()) <= 2


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("lr: !!python/object/apply:os.system ['touch owned']", " line 1: not YAML: could not determine a constructor"),
        ("lr: 1\nsize: [1", " line 2: not YAML: expected ',' or ']'"),
        ("- a\n- b\n", ": a mapping of keys is expected, not a list"),
        ("lr: 2026-02-30\n", ": not YAML: day is out of range"),
        ("net:\n  rates: [1]\n  wdth: 3\n", " line 3: net.wdth: no such key\n  did you mean 'width'?"),
        ("lr: 1\n\nsize: [1,\n  2.5]\n", " line 4: size[1]: a whole number is expected, not 2.5"),
        ("nets:\n- {width: 1, class: a}\n- width: 2\n", " line 3: nets[1].class: is missing"),
        ("nets:\n- {width: 1, class: a}\n- class: a\n  width: -2\n", " line 4: nets[1].width: a number greater"),
        ("nets:\n- {width: 1, class: a}\n- null\n", " line 3: nets[1]: a value is expected, not null"),
        ("net: &a {width: 13}\nsecond: *a\n", " line 1: net: 13 brings bad luck"),
        ("# a remark\nlr: -1\n", " line 2: lr: is above 0\n  such as 1e-3"),
        ("lr: 1\nnet: {width: 1}\nlr: 2\n", " line 3: lr: is given twice, first on line 1\n  keep one of them"),
        ("nets:\n- class: a\n  width: 1\n  class: b\n", " line 4: nets[0].class: is given twice, first on line 2"),
        ("net: &a\n  width: 1\n  rates: *a\n", " line 1: net.rates: holds itself"),
        ("lr: 1\nnet: {? [1] : 2}\n", " line 2: net: a key is a word"),
        ("loop.lr: 1\n", " line 1: loop.lr: no such key"),
    ],
)
def test_files_that_do_not_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str, says: str) -> None:
    monkeypatch.chdir(tmp_path)
    Path("run.yaml").write_text(content)
    with pytest.raises(Mistake) as caught:
        config.load(Run, "run.yaml")
    assert str(caught.value).startswith(f"run.yaml{says}")
    assert not Path("owned").exists()


def test_what_the_command_line_gave_has_no_line(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("net:\n  width: 3\nlr: -1\n")
    with pytest.raises(Mistake, match="^command line: net.width: "):
        config.load(Run, file, ["net.width=x", "lr=1"])
    with pytest.raises(Mistake, match="run.yaml line 3: lr: is above 0"):
        config.load(Run, file, ["net.width=4"])
    with pytest.raises(Mistake, match="run.yaml line 1 and the command line: net: 13 brings bad luck"):
        config.load(Run, file, ["net.width=13", "lr=1"])


def test_numbers_are_as_in_yaml_1_2_and_words_that_look_like_them_come_back(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("{lr: 1e-4, rate: '1e5', net: {rates: [1E3, -2.5e+1]}}")
    run = config.load(Run, file)
    assert run == Run(lr=1e-4, rate="1e5", net=Net(rates=(1000.0, -25.0)))
    file.write_text(config.to_yaml(run))
    assert config.load(Run, file) == run


def test_no_file_and_no_text(tmp_path: Path) -> None:
    with pytest.raises(Mistake, match="no such file"):
        config.load(Run, tmp_path / "run.yaml")
    (tmp_path / "run.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(Mistake, match="cannot be read"):
        config.load(Run, tmp_path / "run.yaml")


def test_the_schema_is_that_of_the_types_and_of_the_docstrings() -> None:
    found = schema.json_schema(Run)
    assert found["$schema"] == "https://json-schema.org/draft/2020-12/schema" and found["description"] == "What is run."
    assert found["properties"]["kind"] == {"type": "string", "enum": ["eps", "v"], "default": "eps"}
    assert [found["properties"][name].get("description") for name in ("lr", "limit", "size", "nets")] == [
        "of the optimiser.", *["of `net`; null is none."] * 2, None,
    ]  # fmt: skip
    assert found["$defs"]["Net"]["properties"]["width"] == {
        "type": "integer", "minimum": 1, "default": 8, "description": "of a layer, in channels.",
    }  # fmt: skip
    assert found["$defs"]["Named"]["required"] == ["width", "class"]


def test_nearest() -> None:
    assert nearest("trian", ["train", "encode"]) == "did you mean 'train'?"
    assert nearest("xyz", ["b", "a"]) == "known: a, b"
