"""What a page says of scores: how long video is usable, values with their errors and references, what was left out."""

import json
import re
from fractions import Fraction

import numpy as np
import pytest

from drivesim.data.video import Writer
from drivesim.jobs import evaluate
from drivesim.jobs import report as job
from drivesim.report import Page, Scores, Section, drift
from drivesim.report.page import render
from drivesim.report.scores import stamp, video_stamp
from drivesim.report.words import clock, digits, plus_minus

RECEIPT = {
    "protocol": "builtin-v1", "extractor": {"name": "builtin-v1", "sha": "0123456789abcdef" * 4}, "frames": 16,
    "fps": "15/2", "every": 1, "stride": 16, "size": [64, 128], "resize": "area <of> a crop", "range": "uint8",
    "epsilon": 0.0, "cov": "N-1", "dtype": "float32 features", "clips_real": "ab", "clips_generated": "cd",
    "version": "0.1.0",
}  # fmt: skip
BAND = {"floor": 1.25, "floor_high": 2.5, "frozen": 104.2, "limit": 52.1}
VALUES = (3.0, None, 40.0, 90.0)


def windows(values=VALUES, width=10.0):
    return [
        {"t0": n * width, "t1": (n + 1) * width, "clips": 30, "value": value,
         "lo": None if value is None else value - 8, "hi": None if value is None else value + 8}
        for n, value in enumerate(values)
    ]  # fmt: skip


def scores(**changes):
    """A list as ``evaluate`` writes it, FVD and FID with a curve."""
    fvd = {
        "metric": "fvd[builtin-v1]", "value": 12.5, "n_real": 300, "n_generated": 120, "floor": 3.0,
        "controls": {"frozen": 101.7, "shuffled": 60.0}, "receipt": RECEIPT, "warnings": ["only 120 <clips>"],
        "left_out": [{"reason": "generated: is <empty>", "count": 7, "examples": ["a/<b>.mp4", "a/c.mp4"]}],
        "notes": [{"reason": "real: 1 frame & more lost", "count": 2, "examples": ["r/d.mp4", "r/e.mp4"]}],
        "estimate": 9.127, "se": 0.824, "curve": windows(), "band": BAND, "usable_until": 30.0,
        "videos": [
            {"video": "made/one/video.mp4", "seconds": 38.0, "usable_until": 12.0, "because": "sharpness too <low>"},
            {"video": "made/two/video.mp4", "seconds": 38.0, "usable_until": 38.0, "because": ""},
        ],
        "schema": "drivesim.score/1",
    }  # fmt: skip
    fvd |= changes
    nothing = {"curve": None, "band": None, "usable_until": None, "videos": None}
    kvd = fvd | nothing | {"metric": "kvd[builtin-v1]", "value": -0.0125, "floor": None, "estimate": None, "se": None}
    frames = RECEIPT | {"frames": 1, "cov": "N"}
    fid = fvd | {"metric": "fid[builtin-v1]", "value": 0.5, "controls": {}, "receipt": frames, "videos": None}
    return [fvd, kvd, fid]


def shown(found):
    return render(Page("t", "l", [Section("Scores", [Scores(found)])]))


def test_numbers_are_as_long_as_they_are_sure():
    assert [digits(v) for v in (12.5, 0.31964, 1234.5, 0.0, -1.1389, 3.2e-5, None)] == [
        "12.50", "0.3196", "1,234", "0", "-1.139", "3.20e-05", "-",
    ]  # fmt: skip
    assert digits(float("inf")) == "inf" and digits(51.62, 3) == "51.6"
    assert plus_minus(9.127, 0.824) == "9.13 ± 0.82" and plus_minus(-120.3, 31.0) == "-120 ± 31"
    assert plus_minus(5, 0) == "5.00 ± 0.00"
    assert clock(42.0) == "42 s" and clock(8.533) == "8.5 s"


def test_scores_stand_with_errors_references_warnings_and_what_was_left_out():
    page = shown(scores())
    for part in (
        "9.13 ± 0.82", "12.50", "floor: real against real", "control: frozen", "only 120 &lt;clips&gt;",
        "generated: is &lt;empty&gt;", "a/&lt;b&gt;.mp4, a/c.mp4 and 5 more", "real: 1 frame &amp; more lost",
        "120 generated clips against 300 real", "120 generated frames against 300 real", "0123456789abcdef<",
        "area &lt;of&gt; a crop", "sharpness too &lt;low&gt;", "-0.01250",
    ):  # fmt: skip
        assert part in page
    assert page.count("only 120 &lt;clips&gt;") == 1 and page.count("<b>.mp4") == 0
    assert "1 of 2 videos hold to their end; half of all are usable for 38 s or longer" in page


def test_a_distance_below_zero_has_no_length():
    (own, worse, worst) = Scores(scores()).bars(scores()[1])
    assert (own.kind, own.percent) == ("own", 0) and worst.percent == 100 and 0 < worse.percent < 100
    assert [bar.percent for bar in Scores([]).bars({"value": -1.0, "floor": -2.0})] == [0, 0]
    assert Scores([]).bars({"value": 1.0}) == []


def test_one_receipt_for_scores_that_share_it_and_cells_where_they_differ():
    heads, rows = Scores(scores()).receipt
    assert heads == ["fvd[builtin-v1], kvd[builtin-v1]", "fid[builtin-v1]"]
    assert dict(rows)["frames"] == ["16", "1"] and dict(rows)["size"] == ["64 x 128"]
    assert dict(rows)["extractor"] == ["builtin-v1 0123456789abcdef"]


@pytest.mark.parametrize(
    ("changes", "words", "held"),
    [
        ({}, "Usable until 30 s of 38 s", False),
        ({"usable_until": 40.0}, "Held to its end, 38 s", True),
        ({"usable_until": 0.0}, "Usable until 0 s of 38 s", False),
        ({"usable_until": 40.0, "curve": windows((1.0, 2.0, None, None))}, "Held for 20 s of 38 s", True),
        ({"usable_until": 40.0, "videos": None}, "Held to its end, 40 s", True),
    ],
)
def test_a_stamp_says_how_long_a_curve_stays_in_its_band(changes, words, held):
    found = stamp(scores(**changes)[0])
    assert (found.words, found.held) == (words, held)


def test_no_stamp_without_a_curve_and_the_stamp_names_who_leaves_before():
    assert stamp(scores()[1]) is None and stamp(scores(curve=windows((None, None)))[0]) is None
    fvd, kvd, fid = scores()
    assert Scores([fvd, kvd]).stamp.because == "fvd[builtin-v1] leaves the band"
    assert Scores([fvd, kvd, fid]).stamp.because == "fvd[builtin-v1] leaves the band; fid[builtin-v1] does at 30 s"
    earlier = Scores([fvd, kvd, fid | {"usable_until": 10.0}]).stamp
    assert (earlier.until, earlier.words) == (10.0, "Usable until 10 s of 40 s")
    assert earlier.because == "fid[builtin-v1] leaves the band; fvd[builtin-v1] does at 30 s"
    held = Scores([fvd | {"usable_until": 40.0}, kvd, fid | {"usable_until": 40.0}]).stamp
    assert held.held and held.because == "fvd[builtin-v1] stays in the band; fid[builtin-v1] stays in the band"
    assert Scores([kvd]).stamp is None and "over time" not in shown([kvd])


def test_pairs_frame_by_frame_are_told_apart_from_distances():
    pairs = {
        "floor": None,
        "controls": {},
        "band": None,
        "usable_until": None,
        "videos": None,
        "curve": windows((31, 24)),
    }
    psnr = scores()[0] | pairs | {"metric": "psnr", "value": 28.4, "receipt": RECEIPT | {"protocol": "pairs"}}
    page = shown([*scores(), psnr, psnr | {"metric": "lpips"}])
    assert "120 pairs of videos, frame by frame; higher is better." in page and "mean over videos" in page
    assert "frame by frame; lower is better." in page and "psnr over time" in page
    assert Scores([*scores(), psnr]).stamp.words == "Usable until 30 s of 38 s"


def test_several_evaluations_in_one_folder_have_a_stamp_each(tmp_path):
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "scores.json").write_text(json.dumps(scores()))
    page = job.run(tmp_path).read_text()
    assert "stamp" not in page[page.index("<header>") : page.index("<section")]
    assert page.count("Usable until 30 s of 38 s") == 2


def test_videos_are_listed_worst_first_by_what_tells_them_apart():
    assert [(name, mark.times) for name, mark in Scores(scores()).videos] == [
        ("one/video.mp4", "12 s of 38 s"),
        ("two/video.mp4", "its end, 38 s"),
    ]
    many = [
        {"video": f"v/{n:03}.mp4", "seconds": 50.0, "usable_until": n / 10, "because": "motion too low"}
        for n in range(300)
    ]
    page = shown(scores(videos=many))
    assert "288 more that last longer" in page and "and 100 more, in scores.json" in page
    assert page.index("000.mp4") < page.index("001.mp4") and "250.mp4" not in page


def texts(svg):
    return re.findall(r"<text[^>]*>([^<]*)</text>", svg)


def marks(svg):
    """The horizontal marks of the stretches."""
    return re.search(r'<g id="LineCollection_1">(.*?)</g>', svg, re.DOTALL)[1].count("<path")


def test_the_drawn_curve_has_its_references_its_end_and_its_gaps():
    svg = drift.draw(windows(), BAND, drift.End(30.0, False, "usable until <30 s>"), (6, 3))
    assert svg == drift.draw(windows(), BAND, drift.End(30.0, False, "usable until <30 s>"), (6, 3))
    for part in ("limit 52.1", "frozen 104", "floor 1.25", "usable until &lt;30 s&gt;", "seconds"):
        assert part in texts(svg)
    assert marks(svg) == 3 and "var(--own" in svg and "var(--soft" in svg
    assert drift.draw(windows((None, None)), BAND, None, (6, 3)) == ""


def test_the_drawn_curve_without_band_or_intervals():
    bare = [window | {"lo": None, "hi": None} for window in windows((0.0, 0.0, float("nan")))]
    svg = drift.draw(bare, None, drift.End(30.0, True, "held"), (4, 3))
    assert marks(svg) == 2 and "held" in texts(svg) and not any("limit" in text for text in texts(svg))


def test_a_curve_that_climbs_far_gets_decades_in_plain_numbers():
    svg = drift.draw(windows((1.0, 10.0, 5000.0)), BAND, None, (4, 3))
    assert {"1", "10", "100", "1000"} <= set(texts(svg)) and "math" not in svg


def test_labels_keep_apart_and_below_the_top():
    assert drift.spread([0.1, 0.5]) == [0.1, 0.5]
    assert drift.spread([0.1, 0.12, 0.9]) == pytest.approx([0.1, 0.2, 0.9])
    assert drift.spread([0.98, 0.99, 1.0]) == pytest.approx([0.8, 0.9, 1.0])


def test_scores_of_an_older_version_are_shown_as_far_as_they_go():
    new = ("notes", "estimate", "se", "curve", "band", "usable_until", "videos", "schema")
    old = {key: value for key, value in scores()[0].items() if key not in new}
    page = shown([old | {"receipt": {"frames": 16, "fps": "15/8"}}])
    assert "12.50" in page and "15/8 frames a second" in page and "±" not in page and "over time" not in page


def film(folder):
    with Writer(folder / "video.mp4", (32, 64), Fraction(15, 8)) as writer:
        writer.write(np.full((4, 32, 64, 3), 90, np.uint8))


def test_each_video_of_a_run_carries_its_own_line_also_where_the_run_was_moved(tmp_path):
    run = tmp_path / "made"
    for name in ("one", "two", "three"):
        film(run / name)
    (run / "scores.json").write_text(json.dumps(scores()))
    page = job.run(run).read_text()
    assert "Usable until 30 s of 38 s" in page[: page.index("<section")]
    first, second = page.index("Video: one</h2>"), page.index("Video: two</h2>")
    third = page.index("Video: three</h2>")
    assert "Usable until 12 s of 38 s" in page[first:third]
    assert "stamp" not in page[third:second] and "Held to its end, 38 s" in page[second:]


def test_a_video_that_does_not_open_leaves_the_page_to_the_others(tmp_path):
    film(tmp_path / "good")
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "video.mp4").write_bytes(b"")
    page = job.run(tmp_path).read_text()
    assert "data:video/mp4" in page and "is empty" in page


def test_a_folder_of_nothing_but_scores_is_named_after_its_videos(tmp_path):
    apart = [row | {"video": f"/somewhere/driven/{n}.mp4"} for n, row in enumerate(scores()[0]["videos"])]
    (tmp_path / "scores.json").write_text(json.dumps(scores(videos=apart)))
    assert "<h1>driven</h1>" in job.run(tmp_path).read_text()
    (tmp_path / "scores.json").write_text(json.dumps(scores()[1]))
    assert f"<h1>{tmp_path.name}</h1>" in job.run(tmp_path).read_text()


def test_evaluate_leaves_a_page_named_after_what_was_compared(tmp_path, capsys):
    evaluate._write(scores(), tmp_path, None, "made & more against held")
    assert capsys.readouterr().out.strip() == str(tmp_path / "report.html")
    assert "<h1>made &amp; more against held</h1>" in (tmp_path / "report.html").read_text()
    assert evaluate._named("runs/*/video.mp4") == "runs/*/video.mp4" and evaluate._named("a/held/") == "held"


def test_a_video_is_held_only_to_its_very_end():
    row = {"video": "v.mp4", "seconds": 8.0, "usable_until": 7.9, "because": "jump too high"}
    assert not video_stamp(row).held and video_stamp(row | {"usable_until": 8.0, "because": ""}).held
