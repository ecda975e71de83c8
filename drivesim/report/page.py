"""A page as data, and the template that it is poured into. Pictures and video travel inside the file, as base64."""

import base64
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jinja2 import DictLoader, Environment, StrictUndefined
from markupsafe import Markup

from drivesim import weights
from drivesim.report import curves

LARGEST = 64 * 2**20  # a page above this opens slowly: the video stays beside it


@dataclass(frozen=True)
class Words:
    """A paragraph."""

    text: str
    kind: str = "words"


@dataclass(frozen=True)
class Video:
    """An H.264 mp4, put into the page whole."""

    file: Path
    caption: str = ""
    kind: str = "video"

    @property
    def data(self) -> str | None:
        """A data address, or None for a file too large to travel in a page."""
        if self.file.stat().st_size > LARGEST:
            return None
        return "data:video/mp4;base64," + base64.b64encode(self.file.read_bytes()).decode()


@dataclass(frozen=True, eq=False)
class Picture:
    """uint8 ``H W 3``; ``lossless`` for drawings and for pictures of few pixels, whose blocks JPEG would show."""

    image: np.ndarray
    caption: str = ""
    lossless: bool = False
    pixelated: bool = False
    kind: str = "picture"

    @property
    def data(self) -> str:
        ending, options = (".png", []) if self.lossless else (".jpg", [cv2.IMWRITE_JPEG_QUALITY, 90])
        done, coded = cv2.imencode(ending, cv2.cvtColor(self.image, cv2.COLOR_RGB2BGR), options)
        if not done:
            raise ValueError(f"a picture of {self.image.shape} cannot be coded")
        return f"data:image/{'png' if self.lossless else 'jpeg'};base64," + base64.b64encode(coded.tobytes()).decode()


@dataclass(frozen=True)
class Curves:
    """Training curves of one ``metrics.csv``."""

    file: Path
    caption: str = ""
    kind: str = "curves"

    @property
    def svg(self) -> Markup:
        return Markup(curves.draw(curves.read(self.file)))


@dataclass(frozen=True)
class Scores:
    """Scores as ``drivesim.score/1``, each with its floor, controls, warnings and receipt."""

    scores: list[dict[str, Any]]
    caption: str = ""
    kind: str = "scores"

    def bars(self, score: dict[str, Any]) -> list[tuple[str, float, float, str]]:
        """(what, value, percent of the largest, class), best first."""
        found = [("generated", score["value"], "own")]
        if score.get("floor") is not None:
            found.append(("floor: real against real", score["floor"], "floor"))
        found += [(f"control: {word}", value, "control") for word, value in score.get("controls", {}).items()]
        largest = max(value for _, value, _ in found) or 1.0
        return [
            (what, value, 100 * value / largest, kind) for what, value, kind in sorted(found, key=lambda bar: bar[1])
        ]


@dataclass(frozen=True)
class Facts:
    """Names and values, as a table."""

    facts: dict[str, Any]
    caption: str = ""
    kind: str = "facts"


Block = Words | Video | Picture | Curves | Scores | Facts


@dataclass(frozen=True)
class Section:
    """A heading and what stands below it."""

    title: str
    blocks: list[Block]


@dataclass(frozen=True)
class Page:
    """A whole page.

    Args:
        title: of the run.
        lead: one or two sentences that say what is seen here.
        sections: in their order.
        foot: for example the version and the date.
    """

    title: str
    lead: str
    sections: list[Section] = field(default_factory=list)
    foot: str = ""


def render(page: Page) -> str:
    """The page as HTML; every text is escaped."""
    source = files("drivesim.report").joinpath("page.html.j2").read_text(encoding="utf-8")
    environment = Environment(
        loader=DictLoader({"page.html": source}),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html").render(page=page)


def write(page: Page, file: str | Path) -> Path:
    """Writes ``page`` atomically and returns the file."""
    weights.write_atomic(file, render(page).encode())
    return Path(file)
