"""The queue: what is done stays done, what failed is told and tried again, what is missing is empty."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

TOOL = Path(__file__).resolve().parents[2] / "tools" / "sweep.py"
SCORE = """import json, sys
folder, value = sys.argv[1], float(sys.argv[2])
json.dump({"value": value, "unsaid": None, "more": {"still more": 2 * value}}, open(f"{folder}/scores.json", "w"))
open(f"{folder}/count", "a").write("x")
"""
SCORES = {"value": 1.0, "unsaid": None, "more": {"still more": 2.0}}
SWEEP = """given: [tool]
seeds: [1, 3]
rows: {one: "10", other: "20"}
commands:
- sh -c "echo {row} > {cell}/row"
- python {tool} {cell} {seed}
columns: {value: the value, unsaid: nothing, more/still more: twice}
"""


def swept(folder: Path, *words: str, text: str = SWEEP) -> subprocess.CompletedProcess[str]:
    (folder / "score.py").write_text(SCORE)
    (folder / "sweep.yaml").write_text(text)
    command = [sys.executable, TOOL, folder / "sweep.yaml", f"tool={folder / 'score.py'}", "--out", folder / "out"]
    return subprocess.run([*command, *words], capture_output=True, text=True, check=False)


def test_cells_are_made_once_and_the_table_has_means(tmp_path: Path):
    first = swept(tmp_path, "--cells", "3")
    assert first.returncode == 0, first.stderr
    *_, one, other = first.stdout.splitlines()
    assert one.startswith("| one | 2.000 ± 1.000 |  | 4.000 ± 2.000 | 2 |")
    assert other.startswith("| other | 1.000 |  | 2.000 | 1 |")
    again = swept(tmp_path)
    assert again.stdout.splitlines()[-1].startswith("| other | 2.000 ± 1.000 |  | 4.000 ± 2.000 | 2 |")
    made = {file.parent.name: file.read_text() for file in (tmp_path / "out").glob("*/count")}
    assert made == dict.fromkeys(("one-1", "one-3", "other-1", "other-3"), "x")
    assert (tmp_path / "out" / "one-3" / "row").read_text() == "10\n"


def test_nothing_is_run_for_the_table_alone(tmp_path: Path):
    shown = swept(tmp_path, "--table")
    assert shown.stdout.splitlines()[-1] == "| other |  |  |  |  |  |" and not list(tmp_path.glob("out/*/count"))


def test_a_command_that_fails_is_told_and_what_ended_before_is_kept(tmp_path: Path):
    broken = SWEEP.replace("- python", "- sh -c 'test -f {cell}/mended'\n- python")
    failed = swept(tmp_path, text=broken)
    assert failed.returncode == 1 and failed.stdout.count("failed, see") == 4
    for folder in (tmp_path / "out").iterdir():
        (folder / "row").unlink()
        (folder / "mended").touch()
    mended = swept(tmp_path, text=broken)
    assert mended.returncode == 0 and "| one | 2.000 ± 1.000 |" in mended.stdout
    assert not list(tmp_path.glob("out/*/row"))  # the first command was not run again


SHARED = """shared:
  parent: sh -c "echo {seed} >> {cell}/made"
  child: sh -c "cat {parent}/made >> {cell}/made"
  unused: sh -c "false"
"""


def test_what_rows_share_is_made_once_a_seed_and_what_none_names_is_not(tmp_path: Path):
    text = SWEEP.replace('"10", other: "20"', '"{child}/made", other: "{child} {parent}", alone: "30"') + SHARED
    assert swept(tmp_path, "--cells", "1", text=text).returncode == 0
    assert {file.name for file in (tmp_path / "out").iterdir()} == {"parent-1", "child-1", "one-1"}
    found = swept(tmp_path, text=text)
    assert found.returncode == 0, found.stderr
    made = {file.parent.name: file.read_text() for file in (tmp_path / "out").glob("*/made")}
    assert made == {"parent-1": "1\n", "child-1": "1\n", "parent-3": "3\n", "child-3": "3\n"}
    out = tmp_path / "out"
    assert (out / "other-3" / "row").read_text() == f"{out / 'child-3'} {out / 'parent-3'}\n"


def test_a_row_whose_parent_fails_is_not_made(tmp_path: Path):
    text = SWEEP.replace('"10"', '"{unused}"') + SHARED
    found = swept(tmp_path, text=text)
    assert found.returncode == 1 and found.stdout.count("unused, seed") == 4  # told what runs, and that it failed
    assert "| one |  |" in found.stdout and "| other | 2.000 ± 1.000 |" in found.stdout
    assert not (tmp_path / "out" / "one-1" / "row").exists()


@pytest.mark.parametrize(
    ("text", "words", "told"),
    [
        (SWEEP, ("else=1",), "else: given, or wanted, in vain"),
        (SWEEP, ("else",), "'else' is not name=value"),
        (SWEEP.replace("{seed}\n", "{nobody}\n"), (), "'nobody' is not known"),
        (SWEEP.replace("seeds", "sedes"), (), "did you mean 'seeds'"),
        (SWEEP + "shared: {other: sh}\n", (), "'other' is something else, too"),
    ],
)
def test_mistakes(tmp_path: Path, text: str, words: tuple[str, ...], told: str):
    found = swept(tmp_path, *words, text=text)
    assert found.returncode == 2 and told in found.stderr and len(found.stderr.splitlines()) <= 3


def test_cells_of_other_commands_are_refused(tmp_path: Path):
    assert swept(tmp_path).returncode == 0
    found = swept(tmp_path, text=SWEEP.replace('"10"', '"11"'))
    assert found.returncode == 2 and "other commands" in found.stderr
    assert json.loads((tmp_path / "out" / "one-1" / "scores.json").read_text()) == SCORES


def test_stopped_it_waits_for_its_command_and_says_how_to_go_on(tmp_path: Path):
    """The command is asked to stop, too, and may end in peace."""
    (tmp_path / "slow.py").write_text(
        "import signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: (open(f'{sys.argv[1]}/saved', 'w'), sys.exit(75)))\n"
        "open(f'{sys.argv[1]}/begun', 'w')\n"
        "time.sleep(60)\n"
    )
    (tmp_path / "sweep.yaml").write_text(SWEEP)
    words = [tmp_path / "sweep.yaml", f"tool={tmp_path / 'slow.py'}", "--out", tmp_path / "out"]
    sweep = subprocess.Popen([sys.executable, TOOL, *words], stderr=subprocess.PIPE, text=True)
    while not (tmp_path / "out" / "one-1" / "begun").exists():
        assert sweep.poll() is None
        time.sleep(0.05)
    sweep.terminate()
    _, told = sweep.communicate(timeout=60)
    assert sweep.returncode == 75 and told == "sweep: stopped; the same command goes on\n"
    assert (tmp_path / "out" / "one-1" / "saved").exists() and not (tmp_path / "out" / "other-1").exists()
