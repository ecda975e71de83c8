"""Weights that come with the package: ``--weights tiny``. ``README.md`` beside them is their card."""

from pathlib import Path

NAME = "tiny"
FOLDER = Path(__file__).resolve().parent


def named(folder: Path) -> Path:
    """``folder``, or that of the weights that come along where it is their name and nothing else lies there."""
    return FOLDER if folder == Path(NAME) and not folder.exists() else folder
