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

from drivesim import disk
from drivesim.report import curves
from drivesim.report.scores import Scores, Stamp
from drivesim.report.words import digits

LARGEST = 64 * 2**20  # a page above this opens slowly: the video stays beside it


@dataclass(frozen=True)
class Words:
    """A paragraph."""

    text: str
    kind: str = "words"


@dataclass(frozen=True)
class Video:
    """An H.264 mp4, put into the page whole, with how long it is usable where that was measured."""

    file: Path
    caption: str = ""
    stamp: Stamp | None = None
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
        stamp: how long what is seen here is usable.
    """

    title: str
    lead: str
    sections: list[Section] = field(default_factory=list)
    foot: str = ""
    stamp: Stamp | None = None


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
    environment.filters["digits"] = digits
    return environment.get_template("page.html").render(page=page)


def write(page: Page, file: str | Path) -> Path:
    """Writes ``page`` atomically and returns the file."""
    disk.write_atomic(file, render(page).encode())
    return Path(file)
