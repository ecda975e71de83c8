"""The autoencoder with a codebook trains: the loss falls, the entries move, what decodes is quantised."""

from dataclasses import replace
from pathlib import Path

import torch

from drivesim.training.autoencoder import AutoencoderLoss, AutoencoderStage, latent_statistics
from drivesim.training.loop import train

from .tiny import AUTOENCODER, Memory, loop


def test_the_codebook_is_trained(tmp_path: Path) -> None:
    settings = loop(steps=12)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(11)
        config = replace(AUTOENCODER, regularizer="vq", codebook=64)
        stage = AutoencoderStage(config, AutoencoderLoss(perceptual=0.0, adversarial=0.0), settings)
    before = stage.model.quantize.embedding.weight.detach().clone()
    memory = Memory("autoencoder", settings, repeat=True)
    x = torch.cat([memory[i]["video"] for i in range(settings.batch)])

    def error() -> float:
        with torch.no_grad():
            return float((stage.model.decode(stage.model.encode(x)[:, :4]) - x).abs().mean())

    start = error()
    train(stage, memory, "autoencoder", tmp_path, "cpu")
    assert error() < 0.95 * start
    moved = (stage.model.quantize.embedding.weight.detach() - before).abs().amax(dim=1)
    assert (moved > 1e-4).sum() >= 2
    found = latent_statistics(stage.model, x)
    assert len(found["mean"]) == 4 and all(value > 0 for value in found["std"])
