"""Another future of a run: its past up to a window, bit for bit, and from there on other noise, boxes or labels.

    run     |window 0|window 1|window 2|window 3|window 4|
                               ^ at 42 s
    branch  |........|........|window 2|window 3|window 4|
             copied            made anew, from the run's own state

A window is the least that can be made, so a branch parts where the last window begins whose first new frame is shown at
``at`` or before: a little early rather than late.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from torch import Tensor

from drivesim import config, yamlfile
from drivesim.data import generated
from drivesim.errors import Mistake, nearest
from drivesim.rollout.journal import Journal
from drivesim.rollout.scenario import Scenario, check
from drivesim.rollout.scenario import load as load_scenario
from drivesim.rollout.settings import RolloutConfig

ADDED = ("tracks", "edits")  # of an edit file, behind those that the run has
REPLACED = ("boxes", "labels", "guidance", "seconds")


@dataclass(frozen=True)
class Branch:
    """
    Args:
        run: the folder of the run that it parts from, with its ``plan``'s hash, ``settings`` and ``seed``.
        window: the first that is made anew; ``frame``: the first output frame, at second ``second``.
        noise: the identity that the run's noise is keyed by, which a branch keeps.
        fixed: what the run's plan.json fixes.
        keeps: it also keeps what lies outside of the places whose boxes it changes.
    """

    run: Path
    plan: str
    seed: int
    window: int
    frame: int
    second: Fraction
    noise: str
    settings: RolloutConfig
    fixed: Mapping[str, Any]
    keeps: bool = False

    @property
    def told(self) -> dict[str, Any]:
        """What plan.json and run.json say of it."""
        kept = {"keep": True} if self.keeps else {}
        return {"plan": self.plan, "window": self.window, "frame": self.frame, **kept}

    def context(self, window: int) -> Tensor:
        """The key-frames ``S C h w`` that the run's ``window`` was given.

        Raises:
            Mistake: the run kept no state before it.
        """
        state = Journal(self.run, self.plan).state(window - 1)
        if state is None:
            what = f"the run kept no state before its window {window + 1}"
            raise Mistake(what, where=self.run, mend="a run with states=all, at least as long as the branch")
        return state["latents"]


def part(run: Path, at: Fraction, keeps: bool = False) -> Branch:
    """The branch that parts from ``run`` at second ``at`` of its output, or up to a window before.

    Args:
        keeps: see ``Branch``.

    Raises:
        Mistake: no run, ``at`` is before its second window or behind its end, the state there was not kept, or what is
            to be kept was not made from the run's own scenario.
    """
    try:
        plan = json.loads((run / "plan.json").read_bytes())
        fps, fixed = Fraction(plan["fps"]), plan["fixed"]
        settings = config.load(RolloutConfig, run / "config.yaml")
        journal = Journal(run, plan["hash"])
        seed, noise = fixed["seed"], fixed["noise"]
    except (OSError, ValueError, KeyError, TypeError):
        raise Mistake("is not a run of 'drivesim generate'", where=run, mend="--from names a run folder") from None
    if not (run / generated.FRAMES).is_file():
        raise Mistake("is not finished", where=run, mend="its own command with --resume goes on")
    if not 0 <= at < plan["total"] / fps:
        end = float(plan["total"] / fps)
        raise Mistake(f"the run has no second {float(at):g}", where="--at", mend=f"it lasts {end:g} s")
    ends = journal.ends()
    window = max((n + 1 for n, end in enumerate(ends) if end <= at * fps), default=0)
    if not window:
        first = float(ends[0] / fps) if ends else 0.0
        mend = f"--at {first:g} or later; before, --seed without --from makes another future of the same opening"
        raise Mistake("falls into the run's first window", where="--at", mend=mend)
    if not journal.kept(window - 1):
        what = f"the run kept no state at {float(ends[window - 1] / fps):g} s"
        raise Mistake(what, where=run, mend="generate it again without states=newest: the video is the same")
    if keeps and (fixed.get("from") or not fixed.get("boxes")):
        what = "is a branch itself" if fixed.get("from") else "was told no boxes"
        mend = "branch off its own run" if fixed.get("from") else "--keep goes with runs of boxes: tracks, or none"
        raise Mistake(f"{what}, so what an edit leaves alone is not known", where=run, mend=mend)
    frame = ends[window - 1]
    return Branch(run.resolve(), plan["hash"], seed, window, frame, frame / fps, noise, settings, fixed, keeps)


def changed(branch: Branch, edit: Path | None) -> Scenario:
    """The run's scenario with what the file ``edit`` says in its place: ``boxes``, ``labels``, ``guidance`` and
    ``seconds``; its ``tracks`` and ``edits`` come behind the run's own.

    Raises:
        Mistake: the past would change, or the scenario that comes out does not fit.
    """
    file = branch.run / "scenario.yaml"
    if edit is None:
        return load_scenario(file)
    values, more = yamlfile.read(file), yamlfile.read(edit)
    for name in more:
        if name not in (*ADDED, *REPLACED, "version"):
            known = name in Scenario.__dataclass_fields__
            mend = None if known else nearest(str(name), (*ADDED, *REPLACED))
            what = f"{name}: a branch cannot change it" if known else f"unknown key '{name}'"
            raise Mistake(what, where=edit, mend=mend or f"it takes {', '.join((*REPLACED, *ADDED))}")
    for name in ADDED:
        if name in more:
            more[name] = [*(values.get(name) or []), *(more[name] or [])]
    with config.located(edit):
        return check(config.build(Scenario, {**values, **more}))
