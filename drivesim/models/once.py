"""What a network makes of its condition and of no noise is made in the first step of a window, and kept for the others.

The steps of a sampler come with the same condition, the very object; what was made of it goes when it goes. Kept in
inference mode alone, in which nobody may change weights or the condition's tensors between two steps, and not by
compiled networks, which would be compiled for every condition. A condition that is put together anew in every step, as
of tiles and of guidance whose branches run in one call, is made anew.
"""

from collections.abc import Callable, Hashable
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from drivesim.scene import Condition

T = TypeVar("T")


class Once:
    """What was made of one condition, for inputs of one shape.

    Args:
        keeps: False makes everything whenever it is asked for, as training must, which may compute layers again.
    """

    def __init__(self, keeps: bool = False) -> None:
        self.keeps, self.made = keeps, dict[Hashable, Any]()

    def __call__(self, name: str, make: Callable[[], T]) -> T:
        if not self.keeps:
            return make()
        if name not in self.made:
            self.made[name] = make()
        return self.made[name]


class Kept:
    """A network's ``Once`` for each condition that is in use."""

    def __init__(self) -> None:
        self.of: WeakKeyDictionary[Condition, dict[Hashable, Once]] = WeakKeyDictionary()

    def __reduce__(self) -> tuple[type["Kept"], tuple[()]]:
        return Kept, ()  # a copy of the network has made nothing yet

    def __call__(self, condition: Condition, x: Tensor) -> Once:
        """Args:
        x: the input, of whose shape and type what is made may depend.
        """
        if torch.compiler.is_compiling() or not torch.is_inference_mode_enabled():
            return Once()
        kind = x.device.type
        cast = torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)  # "meta" has none
        form = (x.shape, x.dtype, x.device, cast)
        return self.of.setdefault(condition, {}).setdefault(form, Once(keeps=True))
