"""``drivesim compare``: what raters are given tells the sides apart by nothing, and votes become a tally."""

import hashlib
import json
import re
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from drivesim import randomness
from drivesim.data import video
from drivesim.errors import Mistake
from drivesim.jobs import compare, tally
from drivesim.report import study as page
from drivesim.world import render

RATE, FRAMES = Fraction(8), 20


@pytest.fixture(scope="module")
def sides(tmp_path_factory):
    """``secretours`` at 64x128 and 8 fps in mp4, ``othermodel`` bright noise at 80x144 and 16 fps."""
    place = tmp_path_factory.mktemp("sides")
    for seed in range(7):
        clip = render(seed, FRAMES / RATE, RATE, (64, 128)).frames
        with video.Writer(
            place / "secretours" / f"clipname-{seed}.mp4", (64, 128), RATE, comment="synthetic"
        ) as writer:
            writer.write(clip)
        draw = randomness.generator("test", "compare", seed)
        noise = draw.integers(128, 256, (2 * FRAMES + 8, 80, 144, 3), dtype=np.uint8)
        with video.Writer(place / "othermodel" / f"clipname-{seed}.mp4", (80, 144), 2 * RATE, crf=30) as writer:
            writer.write(noise)
    return place / "secretours", place / "othermodel"


@pytest.fixture(scope="module")
def made(sides, tmp_path_factory):
    return compare.run(*sides, tmp_path_factory.mktemp("made") / "study", seconds=Fraction(2), seed=3)


def key_of(folder: Path) -> dict:
    return json.loads((folder / "key.json").read_text())


def content(folder: Path) -> dict[str, str]:
    files = [file for file in folder.rglob("*") if file.is_file() and file.name not in ("run.json", "log.txt")]
    return {str(f.relative_to(folder)): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}


def test_nothing_that_raters_get_names_a_side(sides, made):
    given = [file for file in (made / "study").rglob("*") if file.is_file()]
    assert {f.name for f in given} == {"study.html"} | {
        f"000{n}-{s}.mp4" for n in range(1, 8) for s in ("left", "right")
    }
    secrets = [b"secretours", b"othermodel", b"clipname", b"synthetic", str(sides[0].parent).encode()]
    secrets += [hashlib.sha256(f.read_bytes()).hexdigest()[:12].encode() for side in sides for f in side.iterdir()]
    for file in given:
        assert not [secret for secret in secrets if secret in file.read_bytes()], file
    told = (made / "key.json").read_text()
    assert "secretours" in told and "othermodel" in told and "clipname-4" in told


def test_the_videos_of_a_pair_differ_in_their_pictures_alone(made):
    for left in sorted((made / "study" / "pairs").glob("*-left.mp4")):
        right = left.with_name(left.name.replace("left", "right"))
        one, two = video.probe(left), video.probe(right)
        same = ("width", "height", "fps", "frames", "seconds", "rotation", "codec", "comment", "remarks")
        assert [getattr(one, name) for name in same] == [getattr(two, name) for name in same]
        assert (one.height, one.width, one.fps, one.frames, one.codec, one.comment) == (64, 128, 8, 16, "h264", "")
        a, b = left.read_bytes(), right.read_bytes()
        assert len(a) == len(b) and a[:48] == b[:48] and a != b  # the kind of file, then the table's head
        settings = [re.search(rb"x264 - core.*?\0", data).group() for data in (a, b)]
        assert settings[0] == settings[1]


def test_the_key_knows_whose_each_video_is(made):
    rows = key_of(made)["pairs"]
    assert len(rows) == 7 and {row["group"] for row in rows} == set(range(7))
    for row in rows:
        mean = {
            s: video.read(made / "study" / page.clip(row["pair"], s), frames=1).frames.mean() for s in ("left", "right")
        }
        b = "right" if row["a"] == "left" else "left"
        assert mean[b] > 170 > mean[row["a"]], "B is the bright noise"
        assert Path(row["clip_a"]["file"]).stem == Path(row["clip_b"]["file"]).stem
        assert row["clip_a"]["start"] == row["clip_b"]["start"]


def test_a_seed_decides_everything(sides, made, tmp_path):
    again = compare.run(*sides, tmp_path / "again", seconds=Fraction(2), seed=3)
    other = compare.run(*sides, tmp_path / "other", seconds=Fraction(2), seed=4)
    assert content(again) == content(made)
    assert key_of(other)["study"] != key_of(made)["study"]
    assert [row["clip_a"] for row in key_of(other)["pairs"]] != [row["clip_a"] for row in key_of(made)["pairs"]]


def test_left_and_right_are_balanced_in_a_study_and_random_over_seeds():
    left = np.array([compare.a_left_of(7, seed) for seed in range(200)])
    assert set(left.sum(1)) == {3, 4} and sum(compare.a_left_of(100, 5)) == 50
    assert (abs(left.mean(0) - 0.5) < 0.12).all() and len({tuple(row) for row in left}) > 50


def test_the_page_asks_for_nothing_else(made):
    html = (made / "study" / "study.html").read_text()
    assert "default-src 'none'" in html and not re.search(
        r"https?://|<link[^>]+href=\"(?!data:)|\bfetch\(|XMLHttp", html
    )
    assert all(f'"{row["pair"]}"' in html for row in key_of(made)["pairs"]) and key_of(made)["study"] in html
    assert "begin with the same frames" not in html


def test_conditioned_says_so_and_cuts_at_the_opening(sides, tmp_path):
    out = compare.run(*sides, tmp_path / "out", 2, Fraction(1), size=(32, 64), fps=Fraction(4), conditioned=True)
    assert "begin with the same frames" in (out / "study" / "study.html").read_text()
    assert {row["clip_a"]["start"] for row in key_of(out)["pairs"]} == {"0"} and len(key_of(out)["pairs"]) == 2
    info = video.probe(out / "study" / "pairs" / "0001-left.mp4")
    assert (info.height, info.width, info.fps, info.frames) == (32, 64, 4, 4)


def test_what_is_unusual_is_told(sides, tmp_path, capsys):
    (tmp_path / "a").mkdir()
    for file in sides[0].iterdir():
        (tmp_path / "a" / file.name).write_bytes(file.read_bytes())
    broken = tmp_path / "a" / "clipname-2.mp4"
    broken.write_text("text")
    compare.run(tmp_path / "a", tmp_path / "a", tmp_path / "out", seconds=Fraction(1), fps=Fraction(10))
    said = capsys.readouterr().out
    for words in (
        "A and B are the same videos", "video for 12 pairs only", "6 independent groups",
        "12 videos have fewer than 10 frames a second", "left out: 1 of the videos", "clipname-2.mp4: is text",
    ):  # fmt: skip
        assert words in said
    run = json.loads((tmp_path / "out" / "run.json").read_text())
    assert (run["status"], run["job"], run["pairs"]) == ("done", "compare", 12) and "is text" in run["left_out"][0]


def test_a_clip_that_cannot_be_decoded_gives_way_to_another(sides, tmp_path, monkeypatch):
    real, spoilt = compare._cut, []

    def cut(one, file, plan):
        if one.source.file.stem == "clipname-5" and one.source.file.parent.name == "othermodel":
            spoilt.append(file)
            raise Mistake("cannot be decoded", where=one.source.file)
        real(one, file, plan)

    monkeypatch.setattr(compare, "_cut", cut)
    out = compare.run(*sides, tmp_path / "out", 7, Fraction(1), size=(32, 64))
    rows = key_of(out)["pairs"]
    assert spoilt and len(rows) == 7 and "clipname-5" not in {Path(row["clip_a"]["file"]).stem for row in rows}
    assert len(list((out / "study" / "pairs").iterdir())) == 14


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"seconds": Fraction(30)}, "gives no clip of 30 s"),
        ({"size": (33, 64)}, "33x64 is odd"),
        ({"seconds": Fraction(1, 4), "fps": Fraction(4)}, "is no video"),
    ],
)
def test_mistakes_leave_nothing(sides, tmp_path, settings, says):
    with pytest.raises(Mistake, match=says):
        compare.run(*sides, tmp_path / "out", **settings)
    assert not list(tmp_path.iterdir())


def test_a_taken_folder_is_left_alone(sides, tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(Mistake, match="not empty"):
        compare.run(*sides, tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["mine.txt"]


# --- the tally --------------------------------------------------------------------------------------------------------


def keyed(folder: Path, pairs: int, groups: int | None = None) -> dict:
    """A study's key without its videos; A is left in every other pair."""
    rows = [
        {"pair": f"{n:04d}", "a": ("left", "right")[n % 2], "group": n % (groups or pairs),
         "clip_a": {"file": f"a/{n}.mp4", "start": "0"}, "clip_b": {"file": f"b/{n}.mp4", "start": "0"}}
        for n in range(pairs)
    ]  # fmt: skip
    key = {"schema": compare.KEY, "study": "s7", "a": "runs/a/out", "b": "runs/b/out", "pairs": rows}
    folder.mkdir(exist_ok=True)
    (folder / "key.json").write_text(json.dumps(key))
    return key


def vote(folder: Path, rater: str, answers: str, key: dict) -> Path:
    """``answers``: A, =, B or a space for none, a letter a pair."""
    other = {"left": "right", "right": "left"}
    rows = [
        {"pair": row["pair"], "answer": "equal" if word == "=" else row["a"] if word == "A" else other[row["a"]]}
        for word, row in zip(answers, key["pairs"], strict=False)
        if word != " "
    ]
    file = folder / f"votes-{rater}.json"
    file.write_text(json.dumps({"schema": page.VOTES, "study": key["study"], "rater": rater, "votes": rows}))
    return file


def test_a_tally_of_known_votes(tmp_path, capsys):
    key = keyed(tmp_path, 12)
    ann = vote(tmp_path, "Ann", "AAAAAAAAA=BB", key)
    vote(tmp_path, "Bo", "AAAAAAAA==BB", key)
    result = tally.run(tmp_path)
    assert (result["pairs"], result["raters"], result["unit"], result["warnings"]) == (12, 2, "pair", [])
    values = {word: result["all"][word]["value"] for word in ("A", "equal", "B", "decided")}
    assert values == {"A": 70.83, "equal": 12.5, "B": 16.67, "decided": 80.95}
    assert result["all"]["votes"] == 24 and result["all"]["decided"]["votes"] == 21
    test = result["all"]["sign_test"]
    assert (test["for_a"], test["for_b"]) == (9, 2) and test["p"] == pytest.approx(stats.binomtest(9, 11).pvalue)
    assert result["by_rater"]["Ann"]["A"]["value"] == 75 and result["by_rater"]["Bo"]["equal"]["value"] == 16.67
    assert result["agreement"]["same"] == pytest.approx(11 / 12)
    assert 35 < result["all"]["A"]["low"] < 45 and 85 < result["all"]["A"]["high"] < 92
    assert result["all"]["A"]["effective"] < 14, "two raters who agree are worth little more than one"
    assert result["by_pair"][9]["pair"] == "0009" and [result["by_pair"][8][w] for w in ("A", "equal", "B")] == [
        1,
        1,
        0,
    ]
    assert json.loads((tmp_path / "tally.json").read_text()) == result
    row = (tmp_path / "tally.md").read_text().splitlines()[2]
    assert row.startswith("| a/out | b/out | 70.8 % [4") and row.endswith("| p = 0.065 | 12 | 2 | 24 |")
    said = capsys.readouterr().out
    assert "two raters agree on 92 %" in said and "p = 0.065" in said
    assert tally.run(tmp_path, [ann])["raters"] == 1


def test_the_answers_are_joined_by_the_key_not_by_the_side(tmp_path):
    key = keyed(tmp_path, 30)
    file = vote(tmp_path, "Lefty", "A" * 30, key)
    rows = json.loads(file.read_text())
    for row in rows["votes"]:
        row["answer"] = "left"
    file.write_text(json.dumps(rows))
    result = tally.run(tmp_path)
    assert result["all"]["A"]["value"] == result["all"]["B"]["value"] == 50
    assert result["warnings"] == ["Lefty chose the left video 30 times and the right one 0 times"]


def test_pairs_of_one_video_are_one_unit(tmp_path):
    answers = "AAAAABBAAABA" * 5
    apart, together = (
        tally.run(tmp_path / name, [vote(tmp_path / name, "Ann", answers, key)])
        for name, key in (("apart", keyed(tmp_path / "apart", 60)), ("together", keyed(tmp_path / "together", 60, 12)))
    )
    assert together["unit"] == "group of videos" and apart["unit"] == "pair"
    assert together["all"]["A"]["value"] == apart["all"]["A"]["value"]
    assert together["all"]["A"]["effective"] < 20 < 50 < apart["all"]["A"]["effective"]
    assert together["all"]["sign_test"]["for_a"] == 9
    few = tally.run(tmp_path, [vote(tmp_path, "Ann", answers, keyed(tmp_path, 60, 2))])
    assert few["unit"] == "pair" and "hold for these videos alone" in few["warnings"][0]


def test_what_is_missing_is_told(tmp_path):
    key = keyed(tmp_path, 4)
    vote(tmp_path, "Ann", "A B", key)
    assert tally.run(tmp_path)["warnings"] == ["Ann voted on 2 of 4 pairs", "only 2 pairs were voted on"]
    result = tally.run(tmp_path, [vote(tmp_path, "Bo", "==", key)])
    assert result["all"]["decided"] is None and "| none |" in (tmp_path / "tally.md").read_text()


GOOD = {"schema": page.VOTES, "study": "s7", "rater": "Ann", "votes": [{"pair": "0001", "answer": "left"}]}


@pytest.mark.parametrize(
    ("votes", "says"),
    [
        ("{", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ([], "is not of schema drivesim.votes/1"),
        (GOOD | {"schema": "drivesim.votes/9"}, "is not of schema"),
        (GOOD | {"study": "other"}, "is of study other, not s7"),
        (GOOD | {"rater": "a\x1b[2J"}, "names no rater"),
        (GOOD | {"rater": " "}, "names no rater"),
        (GOOD | {"votes": []}, "holds no vote"),
        (GOOD | {"votes": [3]}, "vote 1 is on pair 'None'"),
        (GOOD | {"votes": [{"pair": "9999", "answer": "left"}]}, "vote 1 is on pair '9999', which the study does not"),
        (GOOD | {"votes": [{"pair": "0001", "answer": "A"}]}, "vote 1 says 'A'"),
        (GOOD | {"votes": GOOD["votes"] * 2}, "votes twice on pair 0001"),
        (GOOD | {"votes": [{"pair": ["0001"], "answer": {}}]}, "vote 1 is on pair"),
        (GOOD | {"votes": [{"pair": "0001", "answer": {}}]}, "vote 1 says"),
    ],
)
def test_bad_votes(tmp_path, votes, says):
    keyed(tmp_path, 4)
    file = tmp_path / "votes-Ann.json"
    file.write_text(votes if isinstance(votes, str) else json.dumps(votes))
    with pytest.raises(Mistake) as caught:
        tally.run(tmp_path)
    assert says in str(caught.value) and caught.value.where == file and len(str(caught.value).splitlines()) <= 3
    assert not (tmp_path / "tally.json").exists()


def test_a_rater_counts_once(tmp_path):
    key = keyed(tmp_path, 4)
    first, second = vote(tmp_path, "Ann", "AAAA", key), vote(tmp_path, "ann", "AABB", key)
    with pytest.raises(Mistake, match="is a second file of rater 'ann'"):
        tally.run(tmp_path, [first, second])


def test_no_key_and_no_votes(tmp_path):
    with pytest.raises(Mistake, match="cannot be read"):
        tally.run(tmp_path)
    keyed(tmp_path, 4)
    with pytest.raises(Mistake, match="no votes"):
        tally.run(tmp_path)
    (tmp_path / "key.json").write_text(json.dumps({"schema": compare.KEY, "study": "s", "pairs": [{"pair": 3}]}))
    with pytest.raises(Mistake, match="is not whole"):
        tally.run(tmp_path)
