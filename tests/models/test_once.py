"""What is made once a window: the same numbers, no longer than its condition, and never of other weights."""

import gc
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from drivesim.diffusion.guidance import Guidance
from drivesim.scene import Level
from tests.models.test_video import inputs, made, stirred


def counted(monkeypatch: pytest.MonkeyPatch, model: Any) -> list[int]:
    """How often the context network and the first embedding of places have run."""
    calls = [0, 0]

    def counting(n: int, call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any) -> Any:
            calls[n] += 1
            return call(*args)

        return wrapped

    site = model.temporal.get_submodule("mid_block.attentions.0.0")
    monkeypatch.setattr(model.temporal.context, "forward", counting(0, model.temporal.context.forward))
    monkeypatch.setattr(site, "_embedded", counting(1, site._embedded))
    return calls


def test_steps_of_one_condition_share_it_and_come_out_as_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    model, (x, noise, condition) = stirred(made()), inputs()
    with torch.inference_mode():
        alone = [model(x, noise + step, replace(condition)) for step in range(3)]
        calls = counted(monkeypatch, model)
        together = [model(x, noise + step, condition) for step in range(3)]
        assert calls == [1, 1]
        assert all(torch.equal(a, b) for a, b in zip(alone, together, strict=True))
        other = replace(condition, context=2 * condition.context)
        assert not torch.equal(model(x, noise, other), together[0])
        model(x[:, :, :, :4], noise, replace(condition, context=condition.context[:, :, :, :4]))
    assert calls == [3, 3]


def test_it_goes_with_its_condition() -> None:
    model, (x, noise, condition) = stirred(made()), inputs()
    assert model.temporal is not None
    with torch.inference_mode():
        model(x, noise, condition)
    assert len(model.temporal._kept.of) == 1
    del condition
    gc.collect()
    assert len(model.temporal._kept.of) == 0


def test_where_weights_may_change_nothing_is_kept() -> None:
    model, (x, noise, condition) = stirred(made()), inputs()
    assert model.temporal is not None
    with torch.no_grad():
        before = model(x, noise, condition)
        for parameter in model.temporal.context.parameters():
            parameter.data += 0.3
        assert not torch.equal(model(x, noise, condition), before)


def test_branches_of_guidance_are_the_same_object_in_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    model, (x, _, condition) = stirred(made()), inputs()
    calls = counted(monkeypatch, model)

    def denoiser(x: torch.Tensor, level: Level, told: Any) -> torch.Tensor:
        return model(x, level.sigma, told)

    guided = Guidance(denoiser, context=2.0, null_tokens=torch.zeros(1, 16))
    with torch.inference_mode():
        for step in range(3):
            guided(x, Level(torch.full(x.shape[:2], 100.0 - step)), condition)
    assert calls == [3, 3]  # nothing, context, context and labels
