"""What a page and the terminal say of traffic and its boxes."""

import io
import re

from rich.console import Console

from drivesim.report import Page, Scores, Section, terminal
from drivesim.report.obedience import NUMBERS, Obeyed, draw
from drivesim.report.page import render
from drivesim.report.scores import stamp
from tests.report.test_scores import RECEIPT, scores

PART = dict.fromkeys(NUMBERS, 0.25) | {"boxes": 1200, "detections": 900, "switched": 3}
WHOLE = PART | {"videos": 2, "frames": 80}


def stretches(values=(0.8, 0.7, None, 0.1)):
    return [
        {"t0": 5.0 * n, "t1": 5.0 * n + 5, "videos": 2, "frames": 20, "boxes": 40, "ap50": value, "missing": 0.5,
         "hallucinated": 0.25, "iou": None,
         "interval": {"ap50": None if value is None else [value - 0.05, value + 0.05], "missing": [0.4, 0.6],
                      "hallucinated": None, "iou": None}}
        for n, value in enumerate(values)
    ]  # fmt: skip


def obeyed(**changes):
    """An ``ap50`` as ``evaluate`` writes it."""
    rows = stretches()
    about = {
        "truth": "the <boxes>", "threshold": 0.5, "whole": WHOLE | {"ap50": 0.47}, "true": WHOLE | {"ap50": 0.84},
        "shuffled": WHOLE | {"ap50": 0.0001}, "by_class": {"car": PART, "bus": PART | {"iou": None}},
        "by_size": {"small": PART, "middle": PART, "large": PART}, "by_second": rows, "by_video": [],
        "true_by_class": {"car": PART | {"missing": 0.0625}}, "true_by_size": None,
    }  # fmt: skip
    curve = [{"t0": r["t0"], "t1": r["t1"], "clips": 2, "value": r["ap50"], "lo": None, "hi": None} for r in rows]
    score = scores()[0] | {
        "metric": "ap50", "value": 0.47, "estimate": 0.47, "se": 0.02, "floor": None,
        "controls": {"true": 0.84, "shuffled": 0.0001}, "curve": curve, "usable_until": 15.0,
        "band": {"limit": 0.42, "true": 0.84, "shuffled": 0.0001}, "videos": None, "statistics": None,
        "receipt": RECEIPT | {"protocol": "boxes", "rules": "COCO's"}, "obedience": about,
    }  # fmt: skip
    return score | changes


def test_the_page_has_curves_tables_and_the_rules():
    found = [*scores(), obeyed()]
    page = render(Page("t", "l", [Section("Scores", [Scores(found)])]))
    for part in (
        "Traffic where the boxes say", "0.470 ± 0.020", "the &lt;boxes&gt;", "1,200 boxes in 80 frames of 2 videos",
        "true 0.84", "limit 0.42", "chance &lt; 0.01", "usable until 15 s", "small, 8 to 16 px", "true frames",
        "control: boxes of another video", "COCO&#39;s", "told but not found", "<small>0.062</small>",
    ):  # fmt: skip
        assert part in page, part
    assert page.count("<svg") == 6  # two sizes of the first distance, one of the next, and of obedience all but the IoU
    assert "Traffic where" not in render(Page("t", "l", [Section("Scores", [Scores(scores())])]))


def test_the_earliest_of_all_parts_says_until_when_it_is_usable_and_why():
    mark = Scores([*scores(), obeyed()]).stamp
    assert mark.words == "Usable until 15 s of 20 s"
    assert mark.because.startswith("traffic leaves its boxes (ap50); fvd[builtin-v1] does at 30 s")
    later = Scores([scores(usable_until=5.0)[0], obeyed()]).stamp
    assert later.words == "Usable until 5 s of 38 s" and later.because.endswith("; ap50 does at 15 s")
    assert stamp(obeyed(usable_until=20.0)).because == "traffic keeps to its boxes (ap50)"


def test_best_is_first_where_higher_is_better():
    bars = Scores([]).bars(obeyed())
    assert [(bar.what, bar.kind) for bar in bars] == [
        ("true frames", "floor"), ("generated", "own"), ("control: boxes of another video", "control")
    ]  # fmt: skip


def test_a_curve_has_a_mark_for_every_stretch_with_a_value_and_is_the_same_twice():
    svg = draw(obeyed(), "ap50", None, (4, 2))
    assert svg == draw(obeyed(), "ap50", None, (4, 2)) and not draw(obeyed(), "iou", None, (4, 2))
    marks = re.search(r'id="LineCollection_1">(.*?)</g>', svg, re.S)
    assert marks and marks[1].count("<path") == 3  # of four stretches, one has no value
    assert "limit" in svg and "limit" not in draw(obeyed(), "missing", None, (4, 2))


def test_without_true_frames_there_is_no_column_for_them():
    score = obeyed()
    score["obedience"] |= {"true": None, "true_by_class": None}
    view = Obeyed(score, None)
    assert [words for words, _ in view.sides] == ["generated", "other boxes"]
    assert {other for _, lines in view.tables for *_, pairs in lines for _, other in pairs} == {""}


def test_the_terminal_shows_it_in_a_table_apart():
    console = Console(width=140, record=True, file=io.StringIO())
    found = [*scores(), obeyed()]
    console.print(terminal.table(found))
    console.print(terminal.obedience(found[-1]))
    said = console.export_text()
    assert "AP50, mean of classes" in said and "0.470" in said and said.count("ap50") == 0
    assert "0.47 (bootstrap 0.47 ± 0.02)" in terminal.markdown(found)
