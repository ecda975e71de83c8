"""Stage ``image`` on a subject's pictures: the class's are made by the backbone first, and kept."""

import json
import shutil
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import torch
from rich.progress import track
from torch import Tensor

from drivesim import config, weights
from drivesim.data.subject import SubjectData, encoded, pictures
from drivesim.diffusion.loss import LossConfig
from drivesim.errors import Mistake
from drivesim.jobs.builders.backbone import Backbone
from drivesim.jobs.builders.common import Built, latents_of
from drivesim.scene import to_model
from drivesim.training.diffusion import Conditions
from drivesim.training.loop import LoopConfig
from drivesim.training.subject import SubjectConfig, SubjectStage


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
    origin = config.digest([*map(weights.sha256, files), config.plain(subject)])

    def prepare(out: Path, device: str) -> None:
        about = {
            "backbone": weights.sha256(backbone.file),
            "seed": loop.seed,
            "size": size,
            "of": config.plain(subject),
        }
        made = class_pictures(stage, out / "class", config.digest(about), (size[0] // f, size[1] // f), device)
        latents.decoder.to(device)
        data.classes = encoded(made, size, encode)

    parts = (backbone.autoencoder,) if subject.text else backbone.beside
    header = partial(backbone.of_image, size)
    trained = words if subject.text else None
    return Built(stage, backbone.image, data, parts, origin, header, trained, backbone.file, prepare)


def class_pictures(stage: SubjectStage, folder: Path, digest: str, cells: tuple[int, int], device: str) -> list[Path]:
    """The pictures of the class in ``folder``, made where they are missing; all, where they are not of ``digest``."""
    about = folder / "about.json"
    if not about.is_file() or about.read_text(encoding="utf-8") != json.dumps(digest):
        if folder.exists():
            shutil.rmtree(folder)
        weights.write_atomic(about, json.dumps(digest).encode())
    files = [folder / f"{n:05d}.png" for n in range(stage.subject.class_pictures)]
    missing = [n for n, file in enumerate(files) if not file.is_file()]
    stage.to(device).eval()
    for n in track(missing, f"{len(missing)} pictures of the class", transient=True) if missing else ():
        picture = stage.class_picture(n, cells)
        weights.write_atomic(files[n], cv2.imencode(".png", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))[1].tobytes())
    stage.train()
    return files
