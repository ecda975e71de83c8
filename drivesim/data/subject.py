"""The pictures of a subject and of its class, encoded once, as batches of half and half."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from drivesim.data import video
from drivesim.data.frames import IMAGES, image, refuse_outside
from drivesim.data.loader import Item, Ordered, labels
from drivesim.data.order import Order
from drivesim.errors import Mistake, beside

Encode = Callable[[np.ndarray], Tensor]  # uint8 H W 3 -> moments 1 2C h w


def pictures(folder: Path) -> list[Path]:
    """The PNG and JPEG of a folder, by name.

    Raises:
        Mistake: no such folder, none in it, or a link that leads out of it.
    """
    if not folder.is_dir():
        raise Mistake("no such folder of pictures", where=folder, mend=beside(folder))
    found = sorted(f for f in folder.iterdir() if f.suffix.lower() in IMAGES and not f.name.startswith("."))
    if not found:
        raise Mistake("holds no pictures", where=folder, mend=f"pictures are {', '.join(IMAGES)}")
    for file in found:
        refuse_outside(file, folder)
    return found


def encoded(files: list[Path], size: video.Size, encode: Encode) -> Tensor:
    """``N 1 2C h w``, each resized and cropped to ``size``.

    Raises:
        Mistake: one cannot be read.
    """
    return torch.stack([encode(video.fit(image(file), size)) for file in files])


class Pictures(Dataset[Item]):
    """Map from global sample number to item: even ones are of the subject, odd ones of the class."""

    def __init__(self, sides: tuple[tuple[Tensor, str], tuple[Tensor, str]], seed: int):
        self.sides = sides
        self.orders = [Order(seed + side, len(moments)) for side, (moments, _) in enumerate(sides)]

    def __getitem__(self, sample: int) -> Item:
        moments, caption = self.sides[sample % 2]
        return {"moments": moments[self.place(sample)], "caption": caption, **labels(None, None, sample)}

    def place(self, sample: int) -> int:
        """The picture that a sample is of, within its side."""
        return self.orders[sample % 2].window(sample // 2)


class SubjectData(Ordered):
    """Batches ``{"moments": B 1 2C h w, "caption", "night", "cars", "sample": B}``, see ``Pictures``.

    ``classes`` are set once they are made; until then the subject's own pictures stand for them, so that steps can be
    measured.

    Args:
        files: of the subject; ``moments`` ``N 1 2C h w`` of each.
    """

    def __init__(
        self,
        files: list[Path],
        moments: Tensor,
        prompt: str,
        class_prompt: str,
        *,
        batch: int,
        steps: int,
        start_step: int = 0,
        seed: int = 0,
        workers: int = 0,
    ):
        super().__init__(batch, steps, start_step, workers)
        self.files, self.moments, self.prompt, self.class_prompt, self.seed = files, moments, prompt, class_prompt, seed
        self.left_out = {}
        self.classes = moments

    def training(self) -> Pictures:
        return Pictures(((self.moments, self.prompt), (self.classes, self.class_prompt)), self.seed)

    def clip(self, sample: int) -> str:
        place = self.training().place(sample)
        return f"class picture {place}" if sample % 2 else str(self.files[place])
