"""``drivesim evaluate``: generated video against real video, as scores with their receipts.

A run is a survey (what is there, what is left out), a plan (which clips), a pass (vectors into the cache, by as many
processes or workers as are asked for) and the scores, which are computed from the cache alone. So a second run is
instant, a killed one goes on, and the number of processes does not matter.
"""

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.markup import escape

from drivesim import disk
from drivesim.data.gather import Source, gather
from drivesim.data.pairs import names as by_name
from drivesim.errors import Mistake
from drivesim.jobs import obey, report, wording
from drivesim.jobs.fanout import Engine
from drivesim.jobs.foresee import foresee, looked_at
from drivesim.jobs.instruments import Settings, detector_for, protocol_for, ruler_for
from drivesim.jobs.measuring import bar_on, both_sides, fan_out, leave_out_failed, measure_side
from drivesim.jobs.preflight import Part
from drivesim.jobs.processes import processes
from drivesim.metrics import paired
from drivesim.metrics.clipsim import METRIC, Clip
from drivesim.metrics.detection import Detector
from drivesim.metrics.drift import width_for
from drivesim.metrics.measure import Cache, Ruler
from drivesim.metrics.receipt import Receipt, Score, comparable, refuse_unlike
from drivesim.metrics.score import collect, receipt_for, scores, too_few
from drivesim.metrics.survey import Probes, Side, Tally, check_rates
from drivesim.report import Scores, terminal

SHOWN = 8  # files of one reason that are named on the terminal


def run(
    real: str | Path,
    generated: str | Path,
    out: Path | None = None,
    json_file: Path | None = None,
    settings: Settings | None = None,
    device: str = "cpu",
    devices: int = 1,
    against: Path | None = None,
    dry_run: bool = False,
    engine: Engine | None = None,
) -> list[dict[str, Any]]:
    """Scores ``generated`` against ``real``; see ``data.gather`` for what each may be.

    Args:
        out: folder for ``scores.json``, ``scores.md`` and the page; by default ``generated`` where that is a run
            folder, else nowhere.
        json_file: the same list of scores in a file of the caller's choice.
        devices: processes, each with a device of the kind or, on a CPU, its share of the cores.
        against: a ``scores.json`` from before, to compare with.
        dry_run: says what it will take, and stops before anything is measured or written.
        engine: who measures; None: these processes. Surveys, and what ``settings`` ask for beside FVD, KVD and FID, are
            done here.

    Returns:
        The scores, ``drivesim.score/1``, as plain values: FVD, KVD, FID, and what ``settings`` ask for beside them.

    Raises:
        Mistake: an unknown protocol, weights that do not fit it, no video, too few clips, rates that differ, or scores
            that do not compare.
    """
    settings, engine = settings or Settings(), engine or Engine()
    protocol, earlier = protocol_for(settings), _earlier(against)
    folder = settings.cache or default_cache()
    with processes(device, devices) as team:
        if engine.far and team.size > 1:
            raise Mistake("the processes are Ray's", where="--devices", mend="leave it out, --workers says how many")
        ruler, detector = ruler_for(protocol, settings, team.device), detector_for(settings, team.device)
        clip = Clip(settings.clipsim, team.device) if settings.clipsim else None
        rulers = (ruler, replace(ruler, controls=False))
        console, names = Console(quiet=team.rank > 0), (real, generated)
        probes = Probes(folder, kept=not dry_run)
        places, sides, pairs, watch = team.first(
            lambda: _surveyed(names, ruler, settings, probes, team.cores, console, detector)
        )
        told = team.first(lambda: wording.planned(names, places) if settings.clipsim else None)
        _refuse_rules(earlier, receipt_for(ruler, *sides), against)
        those = replace(team, size=engine.count(device), cores=1) if engine.far else team
        further = list[Callable[[], Part]]()
        if watch is not None and detector is not None:
            further.append(partial(looked_at, watch, detector))
        if told is not None and clip is not None:
            further.append(partial(wording.ahead, told, sides, clip, folder, settings.fps))
        team.first(lambda: foresee(sides, rulers, folder, those, console, dry_run, further))
        if dry_run:
            return []
        if engine.far:
            failed = fan_out(engine, sides, rulers, folder, settings, device)
        else:
            failed = {}
            for name, side, own in zip(("real", "generated"), sides, rulers, strict=True):
                mine = replace(side, videos=side.videos[team.rank :: team.size])
                failed |= measure_side(name, mine, own, Cache(folder, own), team.cores, console)
        team.meet()
        if team.rank > 0:
            return []
        for side, own in zip(sides, rulers, strict=True):
            leave_out_failed(side, own, Cache(folder, own), failed)
        _check(sides, places, ruler, names)
        receipt = receipt_for(ruler, *sides)
        vectors = tuple(collect(side, own, Cache(folder, own)) for side, own in zip(sides, rulers, strict=True))
        made = scores(ruler, receipt, sides, (vectors[0], vectors[1]), settings.window)
        if pairs:
            made += _pairs(pairs, receipt, settings, team.device, console)
        if watch is not None and detector is not None:
            made += _obedience(watch, detector, settings, console)
        if told is not None and clip is not None:
            made += _words(told, clip, folder, settings, console)
    found = [score.plain() for score in made]
    if earlier:
        refuse_unlike(earlier[0], found[0], against)
    _tell(console, found, sides, earlier)
    _write(found, out or _run_folder(Path(generated)), json_file, f"{_named(generated)} against {_named(real)}")
    return found


def _surveyed(
    names: tuple[str | Path, str | Path],
    ruler: Ruler,
    settings: Settings,
    probes: Probes,
    readers: int,
    console: Console,
    detector: Detector | None,
) -> tuple[tuple[list[Source], list[Source]], tuple[Side, Side], list[tuple[Source, Source]], obey.Plan | None]:
    """What stands on both sides: all videos, the clips that are taken, and, if asked for, the pairs of one name, and
    what ``detector`` looks at.

    Raises:
        Mistake: no video, too few clips, rates that differ, no pairs, or no boxes.
    """
    places = (gather(names[0]), gather(names[1]))
    pairs = _named_alike(names, places) if settings.pairs else []
    watch = None if detector is None else obey.planned(names, places, obey.is_file(settings.detector), settings.fps)
    sides = both_sides(places, ruler.protocol, probes, readers, console)
    _check(sides, places, ruler, names)
    return places, sides, pairs, watch


def default_cache() -> Path:
    """Where features are kept when no folder is named."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "drivesim" / "features"


def _check(sides: tuple[Side, Side], places: tuple[list[Any], list[Any]], ruler: Ruler, names: Sequence[Any]) -> None:
    """Raises:
    Mistake: too few clips on a side, or, at the videos' own rates, sides that run at different ones.
    """
    for side, sources, where in zip(sides, places, names, strict=True):
        too_few(side, ruler, len(sources), where)
    if ruler.protocol.fps is None:
        check_rates(*sides)


def _named_alike(
    names: tuple[str | Path, str | Path], places: tuple[list[Source], list[Source]]
) -> list[tuple[Source, Source]]:
    """The pairs of real and generated videos of one name.

    Raises:
        Mistake: there is none.
    """
    left, right = (by_name(Path(name), sources) for name, sources in zip(names, places, strict=True))
    shared = sorted(left.keys() & right.keys())
    if not shared:
        mend = f"for example '{min(right)}' has no counterpart there"
        raise Mistake("no generated video has the name of a real one", where="--pairs", mend=mend)
    return [(left[name], right[name]) for name in shared]


def _pairs(
    pairs: list[tuple[Source, Source]], receipt: Receipt, settings: Settings, device: torch.device, console: Console
) -> list[Score]:
    """Frame by frame; a pair that cannot be read, or whose truth is shorter, is left out with a line.

    Raises:
        Mistake: that goes for all of them.
    """
    called, look = paired.perceptual(device)
    found, left_out = [], Tally()
    with bar_on(console) as bar:
        for real, generated in bar.track(pairs, description="pairs"):
            try:
                found.append(paired.compare(real, generated, settings.fps, device, look))
            except Mistake as problem:
                if len(pairs) == 1:
                    raise
                left_out.add(problem.what, generated.file)
    if not found:
        raise Mistake(f"no pair can be compared: {next(iter(left_out.files))}", where="--pairs")
    longest = max(Fraction(pair.times[-1]).limit_denominator(1000) for pair in found)
    width = settings.window or width_for([longest], Fraction(1))
    return [replace(score, left_out=left_out.counted("pair")) for score in paired.scores(found, called, receipt, width)]


def _obedience(watch: obey.Plan, detector: Detector, settings: Settings, console: Console) -> list[Score]:
    with bar_on(console) as bar:
        task = bar.add_task(f"frames before {detector.name}", total=watch.frames)
        found = obey.measured(watch, detector, settings.window, lambda frames: bar.advance(task, frames))
    if not found:
        console.print("[yellow]warning[/] no box is large and visible enough to be judged: obedience has no score")
    return found


def _words(told: wording.Plan, clip: Clip, folder: Path, settings: Settings, console: Console) -> list[Score]:
    with bar_on(console) as bar:
        task = bar.add_task(f"videos before {clip.name}", total=told.count)
        return wording.measured(told, clip, folder, settings.fps, lambda videos: bar.advance(task, videos))


# --- what is said and written -----------------------------------------------------------------------------------------


def _earlier(file: Path | None) -> list[dict[str, Any]]:
    """The scores of another run.

    Raises:
        Mistake: the file holds none.
    """
    if file is None:
        return []
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except OSError as problem:
        raise Mistake(f"cannot be read: {problem.strerror}", where=file) from None
    except ValueError:
        raise Mistake("is not JSON", where=file, mend="a scores.json of an earlier run is expected") from None
    scores = found if isinstance(found, list) else [found]
    if not scores or not all(isinstance(s, dict) and isinstance(s.get("receipt"), dict) for s in scores):
        raise Mistake("holds no scores", where=file, mend="a scores.json of an earlier run is expected")
    return scores


def _refuse_rules(earlier: list[dict[str, Any]], receipt: Receipt, where: Path | None) -> None:
    """Before anything is measured: an earlier score of other rules cannot be compared with; which real clips are
    scored in the end is not known yet.

    Raises:
        Mistake: see ``receipt.refuse_unlike``.
    """
    if earlier:
        rules = {**vars(receipt), "clips_real": earlier[0]["receipt"].get("clips_real")}
        refuse_unlike(earlier[0], {"metric": earlier[0].get("metric"), "receipt": rules}, where)


def _tell(
    console: Console, found: list[dict[str, Any]], sides: tuple[Side, Side], earlier: list[dict[str, Any]]
) -> None:
    line: dict[str, Any] = {"highlight": False, "soft_wrap": True}  # a line each, also in a pipe
    for name, side in zip(("real", "generated"), sides, strict=True):
        for kind, tally in (("left out", side.left_out), ("note", side.remarks)):
            for words, files in tally.files.items():
                for file in sorted(files)[:SHOWN]:
                    console.print(f"[yellow]{kind}[/] {escape(name)}: {escape(file)}: {escape(words)}", **line)
                if len(files) > SHOWN:
                    more = f"{len(files) - SHOWN} more: {escape(words)}"
                    console.print(f"[yellow]{kind}[/] {name}: {more}", **line)
    console.print(terminal.table(found))
    for score in found:
        if score["obedience"] is not None:
            console.print(terminal.obedience(score))
        if score["metric"] == METRIC:
            console.print(terminal.wording(found), **line)
    for warning in dict.fromkeys(words for score in found for words in score["warnings"]):
        console.print(f"[yellow]warning[/] {escape(warning)}", **line)
    for now in found if earlier else []:
        before = next((score for score in earlier if score["metric"] == now["metric"]), None)
        if before is not None and not comparable(now, before):
            console.print(terminal.versus(now, before), highlight=False)
        else:
            why = ", ".join(comparable(now, before)) + " differ" if before else "not scored before"
            console.print(f"{escape(now['metric'])}: not compared ({why})", highlight=False)
    stamp = Scores(found).stamp
    if stamp is not None:
        console.print(f"{stamp.words}: {escape(stamp.because)}", **line)
    console.print(terminal.markdown(found), highlight=False, soft_wrap=True, markup=False)


def _write(found: list[dict[str, Any]], folder: Path | None, json_file: Path | None, title: str) -> None:
    content = json.dumps(found, indent=1).encode()
    if json_file is not None:
        disk.write_atomic(json_file, content)
    if folder is not None:
        disk.write_atomic(folder / "scores.json", content)
        disk.write_atomic(folder / "scores.md", f"{terminal.markdown(found)}\n".encode())
        print(report.run(folder, title=None if (folder / "run.json").is_file() else title))


def _named(place: str | Path) -> str:
    """A folder or file by its name, a pattern whole."""
    return str(place) if set("*?[") & set(str(place)) else Path(place).absolute().name


def _run_folder(generated: Path) -> Path | None:
    return generated if (generated / "run.json").is_file() else None
