"""What a prediction model is given in training: how many frames, how noisy, and from whom; and at which levels."""

from dataclasses import replace

import pytest
import torch

from drivesim.diffusion.loss import LossConfig
from drivesim.errors import Mistake
from drivesim.jobs.builders.latents import KeyframesRun
from drivesim.models.autoencoder import Autoencoder
from drivesim.models.temporal import TemporalConfig
from drivesim.models.video import ImageModel
from drivesim.training.diffusion import ContextConfig, KeyframeStage, Latents
from tests.training.tiny import AUTOENCODER, LOOP, SCHEDULE, TEMPORAL, UNET, Memory

SAMPLES = 400


def stage_of(context: ContextConfig, loss: LossConfig | None = None) -> KeyframeStage:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(11)
        latents = Latents(torch.zeros(4), torch.ones(4), Autoencoder(AUTOENCODER))
        temporal = replace(TEMPORAL, given=context.most)
        return KeyframeStage(ImageModel(UNET), latents, temporal, context, SCHEDULE, loss or LossConfig(), LOOP)


def batch_of(stage: KeyframeStage, count: int) -> tuple[dict, torch.Tensor]:
    items = [Memory("keyframes", LOOP)[n] for n in range(count)]
    batch = {name: torch.stack([item[name] for item in items]) for name in items[0]}
    return batch, stage._clean(batch)


def test_as_many_frames_are_given_as_asked_for() -> None:
    stage = stage_of(ContextConfig(given=(0.1, 0.2, 0.3, 0.4)))
    counts = stage._given(4, list(range(SAMPLES))).sum(1).long()
    shares = torch.bincount(counts, minlength=4) / SAMPLES
    torch.testing.assert_close(shares, torch.tensor([0.1, 0.2, 0.3, 0.4]), atol=0.06, rtol=0)
    mask = stage._given(4, list(range(SAMPLES)))
    assert bool((mask.diff(dim=1) <= 0).all()), "the first ones"
    assert stage._given(4, None).tolist() == [1, 1, 1, 0]
    batch, z = batch_of(stage, 8)
    condition, predicted = stage._condition(batch, z, list(range(8)))
    assert condition.given.tolist() == counts[:8].tolist() and torch.equal(predicted, mask[:8] == 0)
    assert stage.temporal.given.num_embeddings == 4


def test_a_share_of_what_is_given_is_the_models_own_late_in_training() -> None:
    stage = stage_of(ContextConfig(given=(0.0, 0.0, 1.0), noise=0.0, own=0.5, own_from=0.5))
    batch, z = batch_of(stage, 16)
    samples = list(range(16))

    def shown() -> torch.Tensor:
        condition, _ = stage._condition(batch, z, samples)
        return condition.context[:, :2]

    assert torch.equal(shown(), z[:, :2]), "early: the footage"
    stage.steps_done = LOOP.steps // 2
    late = shown()
    own = torch.tensor([not torch.equal(a, b) for a, b in zip(late, z[:, :2], strict=True)])
    assert 2 <= int(own.sum()) <= 14 and not late.requires_grad
    assert torch.equal(own, stage._uniform("own", samples) < 0.5)
    again, reference = stage._frames(batch, z, samples), stage._frames(batch, z, samples)
    assert torch.equal(again, reference), "a function of the samples' numbers"
    part = {name: value[8:] for name, value in batch.items()}
    torch.testing.assert_close(stage._frames(part, z[8:], samples[8:]), again[8:], msg="and not of the batch")


def test_the_model_is_asked_for_its_own_by_every_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether its part of the batch has such a sample or not: where weights are shards, all gather them at once."""
    stage, asked = stage_of(ContextConfig(own=0.5, own_from=0.0)), []
    batch, z = batch_of(stage, 16)
    none = (stage._uniform("own", list(range(16))) >= 0.5).nonzero()[:2, 0]
    part = {name: value[none] for name, value in batch.items()}
    network = type(stage).network.fget
    monkeypatch.setattr(type(stage), "network", property(lambda self: asked.append(1) or network(self)))
    assert torch.equal(stage._frames(part, z[none], none.tolist()), z[none]) and asked == [1]


def test_a_share_of_the_samples_has_a_level_a_frame() -> None:
    stage = stage_of(ContextConfig(), LossConfig(apart=0.5))
    batch, z = batch_of(stage, 32)
    u = stage._levels(z, list(range(32)))
    apart = u.std(dim=1) > 0
    assert u.shape == (32, 4) and 6 <= int(apart.sum()) <= 26
    plain = stage_of(ContextConfig())
    assert torch.equal(u[~apart][:, 0], plain._levels(z, list(range(32)))[~apart])
    assert bool(stage(batch).isfinite())


WRONG = [{"given": (1.0,)}, {"given": (0.5, 0.6)}, {"own": 1.5}, {"own_from": 1.0}, {"noise": -1}]


@pytest.mark.parametrize("values", WRONG)
def test_mistakes(values: dict) -> None:
    with pytest.raises(Mistake):
        ContextConfig(**values)


def test_the_layers_count_as_many_frames_as_are_given() -> None:
    with pytest.raises(Mistake, match=r"gives up to 3 frames, temporal\.given counts up to 2"):
        KeyframesRun(context=ContextConfig(given=(0.1, 0.2, 0.3, 0.4)))
    KeyframesRun(context=ContextConfig(given=(0.1, 0.2, 0.3, 0.4)), temporal=TemporalConfig(given=3))
    with pytest.raises(Mistake):
        LossConfig(apart=2)
