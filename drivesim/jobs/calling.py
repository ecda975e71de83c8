"""How the networks of a rollout are called: in which precision, and compiled or not."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from drivesim.errors import Mistake

Network = Callable[..., Tensor]
SHAPES = 64  # of all networks together that are compiled; further ones are not


@dataclass(frozen=True)
class Calling:
    """
    Args:
        precision: ``32`` or ``bf16``.
        compiled: denoisers are compiled, for each shape when it is first seen. It stays in ``cache()`` for the next
            process.
    """

    device: torch.device
    precision: str
    compiled: bool = False

    @property
    def told(self) -> str:
        """What decides the bits, for the record."""
        return f"{self.precision}, compiled" if self.compiled else self.precision

    def network(self, call: Network) -> Network:
        """``call`` under autocast to bfloat16, its result in float32; 32 leaves it alone."""
        if self.precision == "32":
            return call

        def cast(*args: object) -> Tensor:
            with torch.autocast(self.device.type, torch.bfloat16):
                return call(*args).float()

        return cast

    def denoiser(self, call: Network) -> Network:
        """As ``network``; compiled where that is asked for.

        Raises:
            Mistake: torch cannot compile here, as without a C++ compiler.
        """
        network = self.network(call)
        return self._compiled(network) if self.compiled else network

    def _compiled(self, network: Network) -> Network:
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache()))
        torch.compiler.config.recompile_limit = SHAPES
        self._try()
        if self.device.type == "cpu":
            return torch.compile(network, dynamic=False)
        graphs = torch.compile(network, dynamic=False, mode="reduce-overhead")

        def call(*args: object) -> Tensor:
            torch.compiler.cudagraph_mark_step_begin()
            return graphs(*args).clone()  # the next call writes its result into the same memory

        return call

    def _try(self) -> None:
        """Compiles the least there is: what is missing is told before anything is made."""
        try:
            torch.compile(torch.nn.functional.silu)(torch.zeros(8, device=self.device))
        except Exception as problem:
            reason = (str(problem).strip().splitlines() or [type(problem).__name__])[0]
            mend = "install g++ (on a GPU also a C compiler, for Triton), or leave it out"
            raise Mistake(f"torch cannot compile here: {reason[:200]}", where="--compile", mend=mend) from problem


def cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "drivesim" / "compiled"
