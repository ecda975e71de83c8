"""Random tracks at random rates: what must hold of them whatever they are."""

from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from drivesim import config
from drivesim.data.annotations import Footage, Labelled, Remarks, Sheet
from drivesim.data.formats import Format
from drivesim.data.formats.known import WRITTEN
from drivesim.rollout import scenario as scenarios
from drivesim.rollout.scenario import Opening, Scenario
from drivesim.rollout.tracks import Box, Edit, Key, Track, Tracks, from_labelled
from drivesim.scene import CLASSES, KEYFRAME_FPS, Labels

SIZE = (720, 1280)
PIXELS = np.array([1280, 720, 1280, 720])
RATES = [
    KEYFRAME_FPS,
    Fraction(15, 2),
    Fraction(10),
    Fraction(25),
    Fraction(2997, 100),
    Fraction(30000, 1001),
    Fraction(30),
]
rates = st.sampled_from(RATES)
words = st.sampled_from(CLASSES)
thousandths = st.integers(-500, 1200).map(lambda n: n / 1000)
sides = st.integers(20, 900).map(lambda n: n / 1000)
boxes = st.builds(lambda x, y, w, h: (x, y, x + w, y + h), thousandths, thousandths, sides, sides)
corners = st.integers(-500, 950).map(lambda n: n / 1000)
visible = st.builds(lambda x, y, w, h: (x, y, max(x, 0) + w, max(y, 0) + h), corners, corners, sides, sides)


@st.composite
def keys(draw: st.DrawFn, boxes: st.SearchStrategy[Box] = boxes) -> tuple[Key, ...]:
    times = sorted(draw(st.sets(st.integers(-1000, 4000), min_size=1, max_size=5)))
    seen = st.none() | st.floats(0, 1)
    return tuple(Key(t / 1000, draw(boxes), draw(seen), draw(st.booleans())) for t in times)


@st.composite
def tracks(
    draw: st.DrawFn,
    names: st.SearchStrategy[str] = st.integers(0, 99).map(str),  # noqa: B008
    boxes: st.SearchStrategy[Box] = boxes,
) -> Tracks:
    chosen = draw(st.lists(names, min_size=1, max_size=4, unique=True))
    return Tracks(tuple(Track(name, draw(words), draw(keys(boxes))) for name in chosen))


def moments(fps: Fraction, seconds: int = 4) -> list[Fraction]:
    return [n / fps for n in range(int(seconds * fps))]


def rows(tracks: Tracks, times: Sequence[Fraction]) -> dict[tuple[Fraction, str], tuple[str, list[float], str]]:
    """By time and id: class, box, visibility (as text, where NaN equals itself)."""
    found = tracks.at(times)
    columns = zip(found.time, found.track.tolist(), found.cls, found.box.tolist(), found.visibility, strict=True)
    return {(t, str(tracks.tracks[n].id)): (cls, box, str(visible)) for t, n, cls, box, visible in columns}


def apart(first: Tracks, second: Tracks) -> float:
    """By how much boxes or times of keys differ at most; infinity where something else does."""
    a, b = ({track.id: track for track in side.tracks} for side in (first, second))
    if [(id, a[id].cls, len(a[id].keys)) for id in a] != [(id, b[id].cls, len(b[id].keys)) for id in a if id in b]:
        return float("inf")
    ends = [[(key.t, *key.box) for id in a for key in side[id].keys] for side in (a, b)]
    return float(np.abs(np.subtract(*ends)).max())


@settings(deadline=None)
@given(tracks=tracks(), first=rates, second=rates)
def test_a_box_does_not_depend_on_the_rate_at_which_it_is_asked_for(
    tracks: Tracks, first: Fraction, second: Fraction
) -> None:
    a, b = rows(tracks, moments(first)), rows(tracks, moments(second))
    shared = {*moments(first)} & {*moments(second)}
    assert Fraction(0) in shared
    assert {at: row for at, row in a.items() if at[0] in shared} == {
        at: row for at, row in b.items() if at[0] in shared
    }


@settings(deadline=None)
@given(keys=keys(), share=st.integers(1, 999))
def test_a_track_moves_evenly_from_key_to_key_and_is_nowhere_else(keys: tuple[Key, ...], share: int) -> None:
    track, part = Track("a", "car", keys), share / 1000
    for key, after in pairwise(keys):
        pose = track.at(key.t + part * (after.t - key.t))
        assert (pose is None) == key.gone
        if pose is not None:
            assert pose.box == pytest.approx([a + part * (b - a) for a, b in zip(key.box, after.box, strict=True)])
    assert all(track.at(key.t) == key for key in keys)
    assert track.at(keys[0].t - 0.001) is None and track.at(keys[-1].t + 0.001) is None


@settings(deadline=None)
@given(tracks=tracks(), by=st.tuples(thousandths, thousandths), speed=st.floats(0.01, 100), later=thousandths)
def test_edits_undo_each_other(tracks: Tracks, by: tuple[float, float], speed: float, later: float) -> None:
    track = tracks.tracks[0]
    id, back = str(track.id), (-by[0], -by[1])
    for edits in (
        [Edit("shift", id, by=by), Edit("shift", id, by=back)],
        [Edit("retime", id, speed=speed), Edit("retime", id, speed=1 / speed)],
        [Edit("retime", id, by=(later,)), Edit("retime", id, by=(-later,))],
        [Edit("class", id, to="other"), Edit("class", id, to=track.cls)],
        [Edit("delete", id), Edit("insert", id, cls=track.cls, keys=track.keys)],
    ):
        assert apart(tracks, tracks.edited(edits)) < 1e-9


@settings(deadline=None)
@given(tracks=tracks(), a=thousandths, b=thousandths)
def test_edits_follow_each_other_and_leave_other_tracks_alone(tracks: Tracks, a: float, b: float) -> None:
    id = str(tracks.tracks[0].id)
    once = tracks.edited([Edit("retime", id, by=(a + b,)), Edit("shift", id, by=(a + b, a))])
    parts = [Edit("shift", id, by=(a, a)), Edit("retime", id, by=(a,)), Edit("shift", id, by=(b, 0.0))]
    assert apart(once, tracks.edited([*parts, Edit("retime", id, by=(b,))])) < 1e-9
    assert once.tracks[1:] == tracks.tracks[1:]
    assert tracks.edited([*parts]) == tracks.edited(parts[:1]).edited(parts[1:])


names = st.text(min_size=1, max_size=5) | st.sampled_from(
    ["1e5", "007", "null", "yes", "12:30", "0x1f", "~", "1_000", "="]
)


@settings(deadline=None)
@given(tracks=tracks(names), fps=st.none() | st.sampled_from([30.0, "15/2"]), cars=st.none() | st.integers(0, 9))
def test_a_scenario_comes_back_from_its_file(
    tmp_path_factory: pytest.TempPathFactory, tracks: Tracks, fps: float | str | None, cars: int | None
) -> None:
    first = tracks.tracks[0]
    edits = (
        Edit("delete", first.id),
        Edit("insert", first.id, cls="bus", keys=first.keys),
        Edit("shift", first.id, by=(1e-7, -0.1)),
        Edit("retime", first.id, speed=1 / 3),
        Edit("class", first.id, to="truck"),
    )
    opening = Opening(generate=Labels(night=True, cars=cars))
    scenario = Scenario(opening=opening, fps=fps, seeds=[2, 0], boxes="tracks", tracks=tracks.tracks, edits=edits)
    file = tmp_path_factory.mktemp("scenario") / "scenario.yaml"
    file.write_text(config.to_yaml(scenario), encoding="utf-8")
    assert scenarios.load(file) == scenario


@settings(max_examples=25, deadline=None)
@pytest.mark.parametrize("form", WRITTEN, ids=lambda form: form.name)
@given(tracks=tracks(boxes=visible), fps=rates)
def test_through_a_label_file_no_corner_moves_by_half_a_pixel(
    tmp_path_factory: pytest.TempPathFactory, form: Format, tracks: Tracks, fps: Fraction
) -> None:
    times = moments(fps)
    labelled = Labelled("drive", tracks.at(times), SIZE, tuple(times), tracks.ids)
    assume(len(labelled.boxes))
    folder = tmp_path_factory.mktemp(form.name)
    assert form.write is not None
    form.write([labelled], folder, fps, Remarks())
    (read,) = form.read(folder, lambda _: Footage(SIZE, fps, len(times)), Remarks())
    before, after = rows(tracks, times), rows(from_labelled(read), times)
    assert [(at, row[0]) for at, row in sorted(before.items())] == [(at, row[0]) for at, row in sorted(after.items())]
    assert all(np.abs((np.array(row[1]) - after[at][1]) * PIXELS).max() < 0.5 for at, row in before.items())


@settings(deadline=None)
@given(places=st.lists(visible, min_size=2, max_size=12), start=st.integers(0, 11), fps=rates)
def test_labels_of_ten_a_second_stand_between_for_other_rates(places: list[Box], start: int, fps: Fraction) -> None:
    sheet = Sheet("drive", (1, 1), Footage(), Remarks())
    inside = np.clip(places, 0, 1)
    for n, (x0, y0, x1, y1) in enumerate(inside.tolist()):
        sheet.add(Fraction(n, 10), "7", "car", (x0, y0, x1, y1))
    labelled, origin = sheet.done(), Fraction(start, 10)
    assert labelled is not None
    times = [t for t in moments(fps) if t <= Fraction(len(places) - 1, 10)]
    found = from_labelled(labelled).at(times)
    assert found.time == tuple(times) and set(found.cls) == {"car"}
    for side in range(4):
        wanted = np.interp(np.array(times, float), np.arange(len(places)) / 10, inside[:, side])
        assert found.box[:, side] == pytest.approx(wanted, abs=1e-12)
    shifted = from_labelled(labelled, origin).at([t - origin for t in times])
    assert shifted.box == pytest.approx(found.box, abs=1e-12)


@settings(deadline=None)
@given(tracks=tracks(), seconds=st.sampled_from([1.0, 4.0]))
def test_what_is_never_seen_is_what_no_frame_shows(tracks: Tracks, seconds: float) -> None:
    shown = {id for _, id in rows(tracks, moments(Fraction(30), int(seconds)))}
    assert set(tracks.unseen(seconds)) == {str(track.id) for track in tracks.tracks} - shown
    after_the_end = replace(tracks.tracks[0], keys=(Key(seconds, (0, 0, 1, 1)),))
    assert Tracks((after_the_end,)).unseen(seconds) == [str(after_the_end.id)]
