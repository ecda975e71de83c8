"""Reading that hangs is cut off: a call that does not come back, packets without end that hold no picture."""

import threading
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import av
import pytest

from drivesim.data import opening, patience, video
from drivesim.data.patience import Patient
from drivesim.data.sources import build
from drivesim.errors import Mistake

from .numbered import numbers, write

RATE = Fraction(10)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(patience.VARIABLE, "0.3")


@pytest.fixture
def stuck(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """``av.open`` of a file called ``stuck`` answers when the event is set, as a disk may that is gone."""
    answer, real = threading.Event(), av.open

    def opens(file: str, *args: object, **more: object) -> object:
        if file.startswith("file:") and Path(file).name.startswith("stuck"):  # not what writers have begun
            answer.wait()
        return real(file, *args, **more)  # type: ignore[call-overload]

    monkeypatch.setattr(opening.av, "open", opens)
    yield answer
    answer.set()


@pytest.mark.usefixtures("impatient", "stuck")
def test_a_file_that_never_answers_is_a_mistake_in_time(tmp_path: Path) -> None:
    write(tmp_path / "stuck.mp4", 10, RATE)
    begun = time.monotonic()
    with pytest.raises(Mistake, match="takes longer to be read") as caught:
        video.probe(tmp_path / "stuck.mp4")
    assert 0.3 <= time.monotonic() - begun < 30 and caught.value.where == tmp_path / "stuck.mp4"
    assert patience.VARIABLE in str(caught.value) and len(str(caught.value).splitlines()) == 2


@pytest.mark.usefixtures("impatient", "stuck")
def test_an_index_leaves_it_out_and_goes_on(tmp_path: Path) -> None:
    for n, name in enumerate(("a.mp4", "stuck.mp4", "z.mp4")):
        write(tmp_path / "clips" / name, 10, RATE, first=10 * n)
    made = build(tmp_path / "clips", tmp_path / "index")
    assert [entry.path for entry in made.entries] == ["a.mp4", "z.mp4"]
    assert "takes longer to be read" in (tmp_path / "index" / "quarantine.jsonl").read_text()


@pytest.mark.usefixtures("impatient")
def test_a_read_that_hangs_midway_keeps_what_it_works_on(tmp_path: Path) -> None:
    """What a stuck thread uses must not be freed; it ends when the call comes back after all."""
    container, answer = opening.opened(write(tmp_path / "a.mp4", 10, RATE)), threading.Event()
    with pytest.raises(Mistake, match="takes longer"), container:
        container.call(answer.wait)
    assert container._patient._thread.is_alive() and container.streams.video[0].width == 128
    answer.set()
    container._patient._thread.join(30)
    assert not container._patient._thread.is_alive()


@pytest.mark.usefixtures("impatient")
def test_packets_without_end_and_without_a_picture(tmp_path: Path) -> None:
    empty = SimpleNamespace(decode=lambda: [])

    def endless(_: object) -> Iterator[object]:
        while True:
            time.sleep(0.01)
            yield empty

    patient = Patient(tmp_path / "a.mp4")
    container = opening.Opened(SimpleNamespace(demux=endless, close=lambda: None), patient)
    with pytest.raises(Mistake, match="no picture for too long|takes longer"), container:
        next(container.decode(None))


def test_frames_are_the_same_and_no_thread_stays(tmp_path: Path) -> None:
    file, before = write(tmp_path / "a.mp4", 60, RATE), threading.active_count()
    assert numbers(video.read(file, frames=60).frames) == list(range(60))
    stream = video.stream(file, chunk=1)
    next(stream)
    stream.close()  # in the middle
    for n in range(5):
        (tmp_path / f"{n}.mp4").write_bytes(b"\0" * 100)
        with pytest.raises(Mistake):
            video.probe(tmp_path / f"{n}.mp4")
    assert threading.active_count() == before


@pytest.mark.parametrize("told", ["soon", "-1", "0", "nan", "1e9"])
def test_a_patience_that_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: str) -> None:
    monkeypatch.setenv(patience.VARIABLE, told)
    with pytest.raises(Mistake, match="is not a number of seconds"):
        video.probe(write(tmp_path / "a.mp4", 10, RATE))
