"""Stage ``image`` on a subject's pictures: the class's are made by the backbone first, and kept."""

import json
import shutil
import time
from functools import partial
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import torch
from rich.progress import track
from torch import Tensor

from drivesim import config, disk
from drivesim.data.subject import SubjectData, encoded, pictures
from drivesim.diffusion.loss import LossConfig
from drivesim.errors import Mistake
from drivesim.jobs.builders.backbone import Backbone
from drivesim.jobs.builders.common import Built, latents_of
from drivesim.jobs.preflight import Part
from drivesim.scene import to_model
from drivesim.training.diffusion import Conditions
from drivesim.training.loop import LoopConfig
from drivesim.training.subject import SubjectConfig, SubjectStage

CLASS, ABOUT = "class", "about.json"


def build_subject(
    subject: SubjectConfig, backbone: Backbone, conditions: Conditions, loss: LossConfig, loop: LoopConfig, begin: int
) -> Built:
    words = backbone.words
    if words is None:
        mend = "a backbone whose labels are words: 'drivesim weights convert' makes one"
        raise Mistake("is told labels, and a subject is learned by its name", where=backbone.file, mend=mend)
    size = subject.size or backbone.header.size
    f = backbone.header.latent["f"]
    if min(size) < 1 or any(side % f for side in size):
        what = f"{size[0]}x{size[1]} does not divide by f = {f}" if any(size) else "the backbone does not say it"
        raise Mistake(what, field="subject.size", mend="subject.size=[H,W]")
    words.ids([subject.prompt, subject.class_prompt])
    latents = latents_of(backbone.autoencoder)
    stage = SubjectStage(backbone.image, latents, subject, backbone.schedule, loss, loop, conditions)

    def encode(picture: np.ndarray) -> Tensor:
        with torch.inference_mode(False), torch.no_grad():
            pixels = to_model(picture[None]).to(next(latents.decoder.parameters()).device)
            return latents.decoder.encode(pixels).cpu()

    files = pictures(Path(subject.pictures))
    data = SubjectData(
        files, encoded(files, size, encode), subject.prompt, subject.class_prompt, batch=loop.batch, steps=loop.steps,
        start_step=begin, seed=loop.seed, workers=loop.workers,
    )  # fmt: skip
    origin = config.digest([*map(disk.sha256, files), config.plain(subject)])

    made_of = [disk.sha256(backbone.file), loop.seed, size, subject.class_prompt, subject.steps, subject.guidance]
    digest, cells = config.digest(made_of), (size[0] // f, size[1] // f)

    def prepare(out: Path, device: str) -> None:
        made = class_pictures(stage, out / CLASS, digest, cells, device)
        latents.decoder.to(device)
        data.classes = encoded(made, size, encode)

    def beforehand(out: Path, device: str) -> Part:
        missing = subject.class_pictures - (len(list((out / CLASS).glob("*.png"))) if _of(out / CLASS, digest) else 0)
        return Part("pictures of the class", missing, _seconds(stage.to(device).eval(), cells))

    parts = (backbone.autoencoder,) if subject.text else backbone.beside
    header = partial(backbone.of_image, size)
    trained = words if subject.text else None
    return Built(stage, backbone.image, data, parts, origin, header, trained, backbone.file, prepare, beforehand)


def class_pictures(stage: SubjectStage, folder: Path, digest: str, cells: tuple[int, int], device: str) -> list[Path]:
    """The pictures of the class in ``folder``, made where they are missing; all, where they are not of ``digest``."""
    if not _of(folder, digest):
        if folder.exists():
            shutil.rmtree(folder)
        disk.write_atomic(folder / ABOUT, json.dumps(digest).encode())
    files = [folder / f"{n:05d}.png" for n in range(stage.subject.class_pictures)]
    missing = [n for n, file in enumerate(files) if not file.is_file()]
    stage.to(device).eval()
    for n in track(missing, f"{len(missing)} pictures of the class", transient=True) if missing else ():
        picture = stage.class_picture(n, cells)
        disk.write_atomic(files[n], cv2.imencode(".png", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))[1].tobytes())
    stage.train()
    return files


def _of(folder: Path, digest: str) -> bool:
    """Whether the pictures in ``folder`` are those of ``digest``."""
    about = folder / ABOUT
    return about.is_file() and about.read_text(encoding="utf-8", errors="replace") == json.dumps(digest)


def _seconds(stage: SubjectStage, cells: tuple[int, int]) -> float:
    """Of a picture of the class, from one of a single step and one of two."""
    ends = [time.perf_counter()]
    for steps in (1, 1, 2):  # the first time is slower
        stage.class_picture(0, cells, steps)
        ends.append(time.perf_counter())
    _, one, two = (b - a for a, b in pairwise(ends))
    return one + (stage.subject.steps - 1) * max(0.0, two - one)
