"""Tracks by key poses: where they are between, what edits do, and what is refused."""

from fractions import Fraction

import numpy as np
import pytest

from drivesim.data.annotations import Footage, Remarks, Sheet
from drivesim.errors import Mistake
from drivesim.rollout.tracks import Box, Edit, Key, Track, Tracks, check, from_labelled

NEAR: Box = (0.4, 0.4, 0.6, 0.6)
FAR: Box = (0.45, 0.45, 0.5, 0.5)


def passing() -> Tracks:
    car = Track("car", "car", (Key(0, FAR), Key(2, NEAR, visibility=1.0)))
    bus = Track("bus", "bus", (Key(1, NEAR, gone=True), Key(3, NEAR), Key(4, (0.9, 0.4, 1.2, 0.8))))
    return Tracks((car, bus))


def at(tracks: Tracks, t: float) -> dict[int, list[float]]:
    boxes = tracks.at([Fraction(t)])
    return {int(n): box for n, box in zip(boxes.track, boxes.box.tolist(), strict=True)}


def test_between_two_keys_a_track_moves_evenly_and_outside_of_them_it_is_not_there() -> None:
    tracks = passing()
    assert at(tracks, 0) == {0: list(FAR)}
    assert at(tracks, 0.5)[0] == pytest.approx([0.4375, 0.4375, 0.525, 0.525])
    assert at(tracks, 2) == {0: list(NEAR)}  # the bus is gone since second 1
    assert at(tracks, 1) == {0: pytest.approx([0.425, 0.425, 0.55, 0.55]), 1: list(NEAR)}
    assert at(tracks, 4) == {1: [0.9, 0.4, 1.0, 0.8]}  # cut to the frame
    assert at(tracks, 4.01) == {}


def test_visibility_is_known_where_both_keys_know_it() -> None:
    both = Tracks((Track("a", "car", (Key(0, NEAR, 0.0), Key(1, NEAR, 1.0))),))
    assert both.at([Fraction(1, 4)]).visibility.tolist() == [0.25]
    assert np.isnan(passing().at([Fraction(1)]).visibility[0])


def test_edits_follow_each_other() -> None:
    edits = (
        Edit("delete", "bus"),
        Edit("shift", "car", by=(0.1, -0.1)),
        Edit("retime", "car", by=(1.0,), speed=2.0),
        Edit("class", "car", to="truck"),
        Edit("insert", "bus", cls="bus", keys=(Key(0, NEAR),)),
    )
    edited = passing().edited(edits)
    car, bus = edited.tracks
    assert (car.cls, [key.t for key in car.keys]) == ("truck", [1.0, 2.0])
    assert car.keys[1].box == pytest.approx((0.5, 0.3, 0.7, 0.5))
    assert bus.keys == (Key(0, NEAR),)
    assert passing().edited(()) == passing()
    assert passing().ids == {0: "car", 1: "bus"} and passing().edited(edits[:1]).ids == {0: "car"}


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (Edit("delete", "cat"), "edits\\[0\\].track: there is no track 'cat' to delete\n.*'car'"),
        (
            Edit("insert", "car", cls="car", keys=(Key(0, NEAR),)),
            "edits\\[0\\].track: there is a track 'car' already\n  name it",
        ),
    ],
)
def test_an_edit_must_fit_the_tracks(edit: Edit, words: str) -> None:
    with pytest.raises(Mistake, match=words):
        passing().edited([edit])


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ((Key(0, (0.5, 0.5, 0.5, 0.6)),), r"keys\[0\].box: \[0.5, 0.5, 0.5, 0.6\] has no area\n.*left, upper, right"),
        ((Key(0, NEAR), Key(1, (0.6, 0.4, 0.4, 0.6))), r"keys\[1\].box: .* has no area"),
        ((Key(1, NEAR), Key(1, NEAR)), r"keys\[1\].t: 1 is not after 1, the key before it\n  keys stand in order"),
    ],
)
def test_keys_that_do_not_fit_each_other_are_refused(keys: tuple[Key, ...], words: str) -> None:
    with pytest.raises(Mistake, match=rf"^tracks\[0\].{words}"):
        check([Track("a", "car", keys)], ())
    with pytest.raises(Mistake, match=rf"^edits\[0\].{words}"):
        check((), [Edit("insert", "a", cls="car", keys=keys)])


def test_two_tracks_of_one_id_are_refused() -> None:
    car = Track("7", "car", (Key(0, NEAR),))
    with pytest.raises(Mistake, match=r"^tracks\[1\].id: there is a track '7' already"):
        check([car, Track(7, "bus", car.keys)], ())


def test_a_labelled_track_is_gone_where_it_was_not_labelled() -> None:
    sheet = Sheet("v", (100, 100), Footage(), Remarks())
    for n in range(5):
        sheet.look(Fraction(n))
    for n in (0, 1, 3):
        sheet.add(Fraction(n), "7", "car", (10, 10, 20 + n, 20))
    sheet.add(Fraction(0), None, "dontcare", (50, 50, 60, 60), ignore=True)
    labelled = sheet.done()
    assert labelled is not None
    tracks = from_labelled(labelled, start=Fraction(1))
    assert [track.id for track in tracks.tracks] == ["7"]
    assert [(key.t, key.gone) for key in tracks.tracks[0].keys] == [(-1, False), (0, True), (2, False)]
    assert at(tracks, 0)[0] == pytest.approx([0.1, 0.1, 0.21, 0.2])
    assert at(tracks, 1) == {} and len(at(tracks, 2)) == 1
