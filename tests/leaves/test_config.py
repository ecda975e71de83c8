"""YAML and overrides become a dataclass; what does not fit is told in one short line with its key."""

import dataclasses
from pathlib import Path
from typing import Literal

import pytest

from drivesim import config
from drivesim.errors import Mistake, nearest


@dataclasses.dataclass(frozen=True)
class Net:
    width: int = 8
    rates: tuple[float, ...] = (1.0, 2.0)


@dataclasses.dataclass(frozen=True)
class Run:
    lr: float = 1e-3
    kind: Literal["eps", "v"] = "eps"
    limit: int | None = None
    size: tuple[int, int] = (64, 128)
    net: Net = dataclasses.field(default_factory=Net)
    second: Net | None = None


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
        ("lr=x", "command line: lr: Expected a <class 'float'>. Got value: x"),
        ("net.width=abc", "command line: net.width: Expected a <class 'int'>. Got value: abc"),
        ("net.width=2.5", "command line: net.width: Expected a <class 'int'>. Got value: 2.5"),
        ("net.width=true", "command line: net.width: Expected a <class 'int'>. Got value: True"),
        ("net.rates=[a]", "command line: net.rates: Expected a <class 'float'>. Got value: a"),
        ("limit=x", "command line: limit: Expected a <class 'int'> or a <class 'NoneType'>. Got value: x"),
        ("second.width=x", "command line: second.width: Expected a <class 'int'>. Got value: x"),
        ("kind=w", "command line: kind: Expected a typing.Literal['eps', 'v']. Got value: w"),
        ("size=[1, 2, 3]", "command line: size: Expected a tuple with 2 elements. Got value: [1, 2, 3]"),
        ("lr=null", "command line: lr: a value is expected, not null"),
        ("net=3", "command line: net: keys are expected, not the value 3"),
        ("wdth=3", "command line: unknown key 'wdth'"),
        ("net.wdth=3", "command line: unknown key 'net.wdth'\n  did you mean 'width'?"),
        ("second.wdth=3", "command line: unknown key 'second.wdth'\n  did you mean 'width'?"),
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
        ("lr: !!python/object/apply:os.system ['touch owned']", "not YAML line 1: could not determine a constructor"),
        ("lr: [1", "not YAML line"),
        ("- a\n- b\n", "a mapping of keys is expected, not a list"),
        ("net: {wdth: 3}\n", "unknown key 'net.wdth'"),
    ],
)
def test_files_that_do_not_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str, says: str) -> None:
    monkeypatch.chdir(tmp_path)
    Path("run.yaml").write_text(content)
    with pytest.raises(Mistake) as caught:
        config.load(Run, "run.yaml")
    assert str(caught.value).startswith(f"run.yaml: {says}")
    assert not Path("owned").exists()


def test_no_file_and_no_text(tmp_path: Path) -> None:
    with pytest.raises(Mistake, match="no such file"):
        config.load(Run, tmp_path / "run.yaml")
    (tmp_path / "run.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(Mistake, match="cannot be read"):
        config.load(Run, tmp_path / "run.yaml")


def test_nearest() -> None:
    assert nearest("trian", ["train", "encode"]) == "did you mean 'train'?"
    assert nearest("xyz", ["b", "a"]) == "known: a, b"
