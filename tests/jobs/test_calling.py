"""How networks are called: precision, and compiled ones."""

import shutil
from pathlib import Path

import pytest
import torch
from torch import Tensor

from drivesim.cli import main
from drivesim.errors import Mistake
from drivesim.jobs import calling
from drivesim.jobs.calling import Calling
from drivesim.models.temporal import TemporalConfig, TemporalLayers
from drivesim.models.unet import UNet, UNetConfig
from drivesim.models.video import VideoUNet
from drivesim.scene import Condition

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:torch", "ignore::DeprecationWarning:jinja2")
compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler")
CPU = torch.device("cpu")
SHORT = ("generate", "--weights", "tiny", "--minutes", "0.08", "--fps", "15/8", "--seed", "2", "--device", "cpu")


def doubled(x: Tensor) -> Tensor:
    return x @ x * 2


def kept_in(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is compiled from here on is kept below ``folder``; what the code sets is undone behind the test."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "")
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR")
    monkeypatch.setattr(torch.compiler.config, "recompile_limit", torch.compiler.config.recompile_limit)


def test_in_full_precision_a_network_is_left_alone_and_bf16_comes_back_as_float32() -> None:
    x = torch.eye(4) / 3
    assert Calling(CPU, "32").denoiser(doubled) is doubled
    made = Calling(CPU, "bf16").denoiser(doubled)(x)
    assert made.dtype == torch.float32 and not torch.equal(made, doubled(x))
    torch.testing.assert_close(made, doubled(x), rtol=0.01, atol=0)


def test_compiled_is_a_precision_of_its_own_in_the_record() -> None:
    assert [Calling(CPU, "bf16", compiled).told for compiled in (False, True)] == ["bf16", "bf16, compiled"]


def test_without_a_compiler_it_is_refused_before_anything_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*args: object, **settings: object) -> None:
        raise RuntimeError("No working C++ compiler found")

    monkeypatch.setattr(torch, "compile", lambda call, **settings: refused)
    with pytest.raises(Mistake, match=r"(?s)--compile: torch cannot compile here: No working C\+\+.*leave it out"):
        Calling(CPU, "bf16", compiled=True).denoiser(doubled)


@compiler
def test_what_it_will_take_is_told_without_compiling_the_networks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    kept_in(tmp_path, monkeypatch)
    assert main([*SHORT, "--compile", "--dry-run", "--out", str(tmp_path / "run")]) == 0
    assert "keyframes" in capsys.readouterr().out
    assert len(list((calling.cache() / "fxgraph").glob("*/*"))) <= 1, "that of the least there is"


@pytest.mark.slow
@compiler
def test_a_compiled_network_is_the_same_but_for_rounding_and_is_kept_for_the_next_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept_in(tmp_path, monkeypatch)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        image = UNet(UNetConfig(channels=(32,), blocks=1, attention=(True,), cross=16, groups=8))
        network = VideoUNet(image, TemporalLayers(TemporalConfig(frames=2, depth=1, context_channels=8), image)).eval()
        x, tokens = torch.randn(1, 2, 4, 8, 8), torch.randn(1, 1, 16)
    shown = torch.ones(1, 2)
    told = Condition(tokens=tokens, context=x, context_mask=shown, context_level=shown, given=torch.tensor([2]))
    with torch.inference_mode():
        for precision, error in (("32", 1e-5), ("bf16", 0.03)):
            once, compiled = (Calling(CPU, precision, c).denoiser(network) for c in (False, True))
            wanted = once(x, torch.full((1, 2), 300.0), told)
            made = compiled(x, torch.full((1, 2), 300.0), told)
            assert (made - wanted).abs().max() < error * wanted.abs().max()
    assert (calling.cache() / "fxgraph").is_dir()
