"""Obedience: average precision against COCO's rules written out once more, what is judged, errors, and identities."""

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest

from drivesim.metrics import obedience
from drivesim.metrics.detection import Found
from drivesim.metrics.matching import Frame, Seen, Told, matched, overlap, told
from drivesim.metrics.obedience import Watched, judge
from drivesim.metrics.precision import OVERLAPS, marks
from drivesim.metrics.tracking import switches, tracks
from drivesim.scene import Boxes

SIZE = (100, 200)
CLASSES = frozenset({"car", "truck", "pedestrian"})
CAR, TRUCK = (20.0, 20.0, 60.0, 50.0), (120.0, 30.0, 180.0, 80.0)


def boxes(*rows, time=Fraction(0)):
    """Of one moment; a row is (pixels, class, track, visibility, ignored), the last three may be left out."""
    full = [(*row, *(("car", 0, np.nan, False)[len(row) - 1 :])) for row in rows]
    return Boxes(
        time=(time,) * len(full),
        track=np.array([row[2] for row in full], np.int64),
        cls=tuple(row[1] for row in full),
        box=np.array([row[0] for row in full], np.float64).reshape(-1, 4) / [200, 100, 200, 100],
        visibility=np.array([row[3] for row in full], np.float64),
        ignore=np.array([row[4] for row in full], bool),
    )


def found(*rows):
    """A row is (pixels, class, score)."""
    return Found(
        np.array([row[0] for row in rows], np.float64).reshape(-1, 4) / [200, 100, 200, 100],
        tuple(row[1] for row in rows),
        np.array([row[2] for row in rows], np.float64),
    )


def watched(*moments, name="v", fps=2):
    """A moment is (boxes, found)."""
    times = tuple(Fraction(n, fps) for n in range(len(moments)))
    return Watched(name, SIZE, times, tuple(m[0] for m in moments), tuple(m[1] for m in moments))


def moved(box, dx=0.0, dy=0.0):
    return (box[0] + dx, box[1] + dy, box[2] + dx, box[3] + dy)


def judged(*videos, threshold=0.5):
    return judge(videos, CLASSES, threshold)


# --- average precision ------------------------------------------------------------------------------------------------


def test_what_is_found_just_where_it_was_told_is_perfect():
    told = boxes((CAR, "car", 1), (TRUCK, "truck", 2))
    made = judged(watched(*[(told, found((CAR, "car", 0.9), (TRUCK, "truck", 0.8)))] * 5))
    whole = obedience.whole(made)
    assert (whole["ap50"], whole["ap"], whole["any50"], whole["iou"]) == pytest.approx((1, 1, 1, 1))
    zero = ("missing", "hallucinated", "hallucinated_per_frame", "centre", "centre_pixels", "confused", "switches")
    assert {name: whole[name] for name in zero} == dict.fromkeys(zero, 0.0)
    assert (whole["frames"], whole["boxes"], whole["detections"], whole["switched"]) == (5, 10, 10, 0)


def test_a_known_shift_is_a_known_overlap_and_a_known_error_of_the_centre():
    """8 of 40 pixels to the right: 32 of 48 pixels are shared."""
    told = boxes((CAR, "car", 1))
    numbers = obedience.whole(judged(watched(*[(told, found((moved(CAR, 8), "car", 0.9)))] * 3)))
    assert numbers["iou"] == pytest.approx(2 / 3) and numbers["centre_pixels"] == pytest.approx(8)
    assert numbers["centre"] == pytest.approx(8 / 50)  # a box of 40x30 has a diagonal of 50
    assert numbers["ap50"] == pytest.approx(1) and numbers["ap"] == pytest.approx(0.4)  # right at 0.5 to 0.65 of ten


def test_five_detections_by_hand():
    """Hit, miss, hit, miss, hit, with four boxes told: precision is 1 to a recall of 1/4, 2/3 to 1/2, 3/5 to 3/4."""
    places = [(10 + 45 * n, 10, 40 + 45 * n, 40) for n in range(4)]
    away = [(10, 60, 40, 90), (60, 60, 90, 90)]
    seen = [places[0], away[0], places[1], away[1], places[2]]
    one = watched(
        (boxes(*((box, "car", n) for n, box in enumerate(places))),
         found(*((box, "car", 0.9 - 0.1 * n) for n, box in enumerate(seen))))
    )  # fmt: skip
    numbers = judged(one).numbers()
    assert numbers["ap50"] == pytest.approx((26 * 1 + 25 * 2 / 3 + 25 * 3 / 5) / 101)
    assert numbers["missing"] == 0.25 and numbers["hallucinated"] == 0.4 and numbers["hallucinated_per_frame"] == 2


def test_classes_count_apart_and_as_one():
    told, seen = boxes((CAR, "car", 1), (TRUCK, "truck", 2)), found((CAR, "car", 0.9), (TRUCK, "car", 0.8))
    made = judged(watched((told, seen)))
    numbers, classes = made.numbers(), obedience.by_class(made)
    assert numbers["any50"] == 1 and numbers["ap50"] == pytest.approx((1.0 + 0.0) / 2)
    assert (numbers["missing"], numbers["hallucinated"], numbers["confused"]) == (0, 0, 0.5)
    assert set(classes) == {"car", "truck"} and (classes["car"]["ap50"], classes["truck"]["ap50"]) == (1, 0)
    assert classes["truck"]["confused"] == 1 and classes["car"]["detections"] == 2


def reference(frames, cls, least, within):
    """pycocotools' ``evaluateImg`` and ``accumulate``, written out for one class, one overlap and one area range."""
    rows, positives = [], 0
    for frame in frames:
        gts = []
        for n, box in enumerate(frame.told.box):
            if frame.told.judged[n] and frame.told.cls[n] != cls:
                continue
            area = (box[2] - box[0]) * (box[3] - box[1])
            ignore = not frame.told.judged[n] or not within[0] ** 2 <= area < within[1] ** 2
            gts.append((ignore, box, bool(frame.told.region[n])))
        gts.sort(key=lambda gt: gt[0])
        dts = [(s, b) for s, b, c in zip(frame.seen.score, frame.seen.box, frame.seen.cls, strict=True) if c == cls]
        dts.sort(key=lambda dt: -dt[0])
        taken = set()
        for score, dt in dts[:100]:
            best, m = min(least, 1 - 1e-10), -1
            for g, (ignore, gt, crowd) in enumerate(gts):
                if g in taken and not crowd:
                    continue
                if m > -1 and not gts[m][0] and ignore:
                    break
                width = min(dt[2], gt[2]) - max(dt[0], gt[0])
                height = min(dt[3], gt[3]) - max(dt[1], gt[1])
                shared = max(width, 0) * max(height, 0)
                own, its = (dt[2] - dt[0]) * (dt[3] - dt[1]), (gt[2] - gt[0]) * (gt[3] - gt[1])
                iou = shared / own if crowd else shared / (own + its - shared)
                if iou < best:
                    continue
                best, m = iou, g
            if m > -1:
                taken.add(m)
                dropped, hit = gts[m][0], True
            else:
                area = (dt[2] - dt[0]) * (dt[3] - dt[1])
                dropped, hit = not within[0] ** 2 <= area < within[1] ** 2, False
            rows.append((score, dropped, hit))
        positives += sum(not ignore for ignore, *_ in gts)
    if not positives:
        return None
    rows.sort(key=lambda row: -row[0])
    tp = np.cumsum([hit and not dropped for _, dropped, hit in rows]).astype(float)
    fp = np.cumsum([not hit and not dropped for _, dropped, hit in rows]).astype(float)
    recall, precision = (tp / positives).tolist(), (tp / (fp + tp + np.spacing(1))).tolist()
    for i in range(len(precision) - 1, 0, -1):
        precision[i - 1] = max(precision[i - 1], precision[i])
    levels = np.zeros(101)
    for level, place in enumerate(np.searchsorted(recall, np.linspace(0, 1, 101), side="left")):
        if place < len(precision):
            levels[level] = precision[place]
    return float(levels.mean())


def crowded(seed):
    """Thirty frames of boxes that overlap, half-found, some hidden, some regions, some of a class that is not known."""
    draw, made = np.random.default_rng(seed), []
    words = ("car", "truck", "rider")
    for _ in range(30):
        rows = []
        for n in range(draw.integers(0, 9)):
            x, y, w, h = draw.uniform(0, 150), draw.uniform(0, 60), draw.uniform(3, 45), draw.uniform(3, 40)
            seen = draw.choice([np.nan, 0.2, 0.9])
            rows.append(((x, y, x + w, y + h), str(draw.choice(words)), n, seen, bool(draw.random() < 0.1)))
        seen = []
        for row in rows:
            for _ in range(draw.integers(0, 3)):
                box = tuple(np.array(row[0]) + draw.normal(0, 3, 4))
                if box[2] > box[0] and box[3] > box[1]:
                    seen.append((box, str(draw.choice([row[1], "car"])), draw.random()))
        for _ in range(draw.integers(0, 4)):
            x, y, w, h = draw.uniform(0, 150), draw.uniform(0, 60), draw.uniform(3, 45), draw.uniform(3, 40)
            seen.append(((x, y, x + w, y + h), str(draw.choice(words)), draw.random()))
        seen.sort(key=lambda row: -row[2])
        made.append((boxes(*rows), found(*seen)))
    return watched(*made)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("within", [(8.0, np.inf), (16.0, 32.0)])
def test_the_same_as_cocos_rules_written_out(seed, within):
    frames = judged(crowded(seed)).frames
    for cls in ("car", "truck", "pedestrian"):
        for least, mine in zip(OVERLAPS, marks([frame.only(cls) for frame in frames], OVERLAPS, within), strict=True):
            truth = reference(frames, cls, least, within)
            assert mine.precision() == (None if truth is None else pytest.approx(truth, abs=1e-12))


def test_frames_that_count_twice_are_frames_that_stand_there_twice():
    one = crowded(5)
    weight = np.random.default_rng(0).integers(0, 3, len(one.times)).astype(float)
    places = [n for n, times in enumerate(weight) for _ in range(int(times))]
    twice = replace(
        one,
        times=tuple(Fraction(n) for n in range(len(places))),
        boxes=tuple(one.boxes[n] for n in places),
        found=tuple(one.found[n] for n in places),
    )
    weighted = judged(one).weighted(np.stack([weight, np.ones(len(weight))]))
    mine, truth = {name: value[0] for name, value in weighted.items()}, judged(twice).numbers()
    assert {name: value[1] for name, value in weighted.items()} == pytest.approx(judged(one).numbers())
    del mine["switches"], truth["switches"]  # a frame twice in a row is no switch
    assert mine == pytest.approx(truth)


# --- what is judged ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "row",
    [
        ((20, 20, 27, 27), "car"),  # too small
        (CAR, "car", 1, 0.4),  # hidden
        (CAR, "other", 1, np.nan, True),  # a region
        (CAR, "rider", 1),  # of a class that the detector does not know
    ],
)
def test_what_is_not_judged_is_neither_missing_nor_hallucinated(row):
    sure = (TRUCK, "truck", 9)
    for seen in ([(TRUCK, "truck", 0.9)], [(TRUCK, "truck", 0.9), (row[0], "car", 0.99)]):
        numbers = obedience.whole(judged(watched((boxes(row, sure), found(*seen)))))
        assert (numbers["ap50"], numbers["missing"], numbers["hallucinated"], numbers["boxes"]) == (1, 0, 0, 1)
        assert numbers["any50"] == 1 and numbers["detections"] == 1


def test_any_number_of_detections_is_dropped_in_a_region_by_the_share_of_them_that_lies_in_it():
    region = ((0, 0, 100, 100), "other", 1, np.nan, True)
    inside = [((10 * n, 10, 10 * n + 12, 22), "car", 0.9) for n in range(1, 6)]
    half_out = [((95, 40, 107, 60), "car", 0.8)]  # 5 of 12 pixels inside
    numbers = obedience.whole(judged(watched((boxes(region, (TRUCK, "truck", 2)), found(*inside, *half_out)))))
    assert numbers["detections"] == 1 and numbers["hallucinated"] == 1 and numbers["missing"] == 1


def test_a_detection_prefers_a_judged_box_and_each_is_taken_once():
    box = np.array([CAR, moved(CAR, 2)], float)
    shared = overlap(np.array([moved(CAR, 2), moved(CAR, 2), moved(CAR, 2)], float), box)
    judged, region = np.array([True, False]), np.zeros(2, bool)
    assert matched(shared, judged, region, 0.5).tolist() == [0, -2, -1]  # its own, a "don't care", and nothing left
    assert matched(shared, judged, np.array([False, True]), 0.5).tolist() == [0, -2, -2]


def test_the_least_size_is_at_the_size_of_the_video():
    row = boxes(((40, 40, 48, 48), "car", 1))
    assert told(row, (100, 200), CLASSES).judged.tolist() == [True]
    assert told(row, (99, 198), CLASSES).judged.tolist() == [False]


def test_sizes_are_told_apart():
    small, large = (10, 10, 20, 20), (100, 40, 160, 90)
    made = judged(watched((boxes((small, "car", 1), (large, "car", 2)), found((large, "car", 0.9)))))
    sizes = obedience.by_size(made)
    assert (sizes["small"]["missing"], sizes["large"]["missing"], sizes["middle"]["missing"]) == (1, 0, None)
    assert (sizes["small"]["ap50"], sizes["large"]["ap50"], sizes["middle"]["ap50"]) == (0, 1, None)


# --- identities -------------------------------------------------------------------------------------------------------


def test_a_scripted_swap_is_one_switch_of_each_track():
    """Two cars stand far apart; the video forgets which is which when both are gone for two seconds and come back."""
    a, b = CAR, TRUCK
    there = (boxes((a, "car", 1), (b, "car", 2)), found((a, "car", 0.9), (b, "car", 0.8)))
    gone = (boxes((a, "car", 1), (b, "car", 2)), found())
    made = judged(watched(*[there] * 3, *[gone] * 5, *[there] * 3))
    assert obedience.whole(made)["switched"] == 2  # new tracks: nobody waits longer than a second
    assert np.flatnonzero(made.rows.switched).tolist() == [16, 17]
    assert made.numbers()["switches"] == pytest.approx(100 * 2 / 12)
    kept = judged(watched(*[there] * 3, gone, *[there] * 3))  # half a second: the same tracks go on
    assert obedience.whole(kept)["switched"] == 0


def test_tracks_follow_what_moves_and_each_goes_to_its_own():
    steps = [np.array([moved(CAR, 8 * n), moved(TRUCK, -8 * n)]) for n in range(5)]
    assert [row.tolist() for row in tracks(steps, [0.1 * n for n in range(5)])] == [[0, 1]] * 5
    crossed = [steps[0], steps[1][::-1]]  # in another order
    assert [row.tolist() for row in tracks(crossed, [0.0, 0.1])] == [[0, 1], [1, 0]]
    assert tracks([np.empty((0, 4)), steps[0]], [0.0, 0.1])[1].tolist() == [0, 1]


def test_switches_are_counted_from_where_a_track_was_last_found():
    told_, own = [1, 2, 1, 2, 1, 2], [5, 6, 6, 5, 6, 5]
    assert switches(told_, own).tolist() == [False, False, True, True, False, False]


# --- over time, and what worthless video scores -----------------------------------------------------------------------


def fading(name, good, length=20):
    """A car that stands in ``good`` frames and is gone in the others."""
    told = boxes((CAR, "car", 1))
    return watched(
        *[(told, found((CAR, "car", 0.9)) if n < good else found()) for n in range(length)], name=name, fps=2
    )


def test_stretches_tell_when_it_goes():
    rows = obedience.by_second(judged(fading("a", 10), fading("b", 15)), Fraction(2))
    assert [(row["t0"], row["t1"]) for row in rows] == [(0, 2), (2, 4), (4, 6), (6, 8), (8, 10)]
    assert [row["missing"] for row in rows] == [0, 0, 0.25, 0.625, 1]
    assert rows[0]["interval"]["missing"] == [0, 0] and rows[4]["interval"]["ap50"] == [0, 0]
    low, high = rows[3]["interval"]["missing"]
    assert 0 <= low < 0.625 < high <= 1 and rows[4]["interval"]["iou"] is None
    assert obedience.by_second(judged(fading("a", 10), fading("b", 15)), Fraction(2)) == rows


def test_a_bootstrap_draws_videos_or_blocks_of_a_second():
    few, many = judged(fading("a", 10)), judged(*(fading(str(n), 10 + n) for n in range(5)))
    assert few.units.tolist() == [n // 2 for n in range(20)]
    assert many.units.tolist() == [n for n in range(5) for _ in range(20)]
    assert 0 < obedience.spread(many) < obedience.spread(few)


def test_each_video_by_itself():
    rows = obedience.by_video(judged(fading("a", 10), fading("b", 15)))
    assert [(row["video"], row["missing"], row["boxes"]) for row in rows] == [("a", 0.5, 20), ("b", 0.25, 20)]


def test_shuffled_boxes_are_another_videos_or_of_another_time():
    here, there = boxes((CAR, "car", 1)), boxes((TRUCK, "car", 1))
    a, b = (watched(*[(told_, found((box, "car", 0.9)))] * 6, name=n) for n, told_, box in
            (("a", here, CAR), ("b", there, TRUCK)))  # fmt: skip
    for videos in ((a, b), (a, a, b)):
        assert obedience.whole(judged(*obedience.shuffled(videos)))["missing"] == 1
    half = watched(*[(here, found((CAR, "car", 0.9)))] * 3, *[(there, found((TRUCK, "car", 0.9)))] * 3)
    assert obedience.whole(judged(half))["ap50"] == 1
    assert obedience.whole(judged(*obedience.shuffled([half])))["missing"] == 1
    assert obedience.whole(judged(*obedience.shuffled([half, half])))["missing"] == 1  # told the same, so of later


def test_a_frame_without_anything_is_no_trouble():
    nothing = watched((boxes(), found()), (boxes(), found((CAR, "car", 0.9))))
    numbers = obedience.whole(judged(nothing))
    assert numbers["ap50"] is None and numbers["missing"] is None and numbers["hallucinated_per_frame"] == 0.5


def test_parts_that_disagree_are_refused():
    with pytest.raises(ValueError, match="2 times, 1 boxes"):
        Watched("v", SIZE, (Fraction(0), Fraction(1)), (boxes(),), (found(), found()))


def test_a_class_stays_with_what_is_not_judged():
    region = np.array([False, True, False])
    told_ = Told(np.array([CAR, CAR, TRUCK]), ("car", "other", "truck"), np.arange(3), ~region, region)
    only = Frame.of(told_, Seen(np.array([CAR, TRUCK]), ("car", "truck"), np.array([0.9, 0.8]))).only("truck")
    assert only.told.cls == ("other", "truck") and only.seen.cls == ("truck",)
