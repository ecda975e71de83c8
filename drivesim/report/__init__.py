"""One self-contained HTML page per run: video, contact sheets, curves, scores. Nothing is fetched from elsewhere."""

from drivesim.report.page import Block, Curves, Facts, Page, Picture, Section, Video, Words, write
from drivesim.report.scores import Scores, Stamp, video_stamp
from drivesim.report.sheet import contact_sheet

__all__ = [
    "Block",
    "Curves",
    "Facts",
    "Page",
    "Picture",
    "Scores",
    "Section",
    "Stamp",
    "Video",
    "Words",
    "contact_sheet",
    "video_stamp",
    "write",
]
