"""The page of a user study: pairs of videos side by side, voted on without knowing which side is whose.

It holds pair numbers and nothing of where the videos are from; they lie beside it in ``pairs/``. It opens from disk,
fetches nothing else, and keeps each rater's votes in the browser until they are downloaded.
"""

from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from jinja2 import Environment, StrictUndefined

from drivesim import disk

VOTES = "drivesim.votes/1"
ANSWERS = ("left", "equal", "right")


@dataclass(frozen=True)
class Study:
    """What the page is given.

    Args:
        id: of the study; votes carry it.
        pairs: names, ``pairs/NAME-left.mp4`` and ``pairs/NAME-right.mp4`` each.
        seconds: length of each clip. size: ``H W`` of each clip.
        opening: both videos of a pair begin at the same real frames.
    """

    id: str
    pairs: list[str]
    seconds: float
    size: tuple[int, int]
    opening: bool = False


def clip(name: str, side: str) -> str:
    """Where the page looks for a video."""
    return f"pairs/{name}-{side}.mp4"


def write(study: Study, folder: Path) -> Path:
    """Writes ``study.html`` into ``folder`` and returns it."""
    source = files("drivesim.report").joinpath("study.html.j2").read_text(encoding="utf-8")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    page = environment.from_string(source).render(study=study, votes=VOTES, answers=ANSWERS)
    disk.write_atomic(folder / "study.html", page.encode())
    return folder / "study.html"
