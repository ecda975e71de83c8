"""Inception-v3 as FID has it [Heusel 2017]: TensorFlow's graph of 2015-12-05, the 2048 features of its last pool.

It is not torchvision's Inception: average pools leave the padding out, the last block pools by maximum, 1008 classes,
and the input is resized the TensorFlow 1 way [github.com/mseitzer/pytorch-fid, inception.py; the frozen graph
itself]. Names of tensors are those of the public file.

The network is built for inference alone: batch norms are folded into the convolutions, the 1x1 convolutions that read
the same input run as one, and a block's average pool stands behind its 1x1 convolution, where channels are fewer:
both are linear, and neither looks at what the other does.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from drivesim import disk, pickled, weights
from drivesim.metrics import resize
from drivesim.metrics.features import check_prepared
from drivesim.metrics.published import Published, fit, verify

EPSILON = 1e-3  # of the batch norms
NORM = ("weight", "bias", "running_mean", "running_var")
FEATURES = 2048
SIZE = 299
KNOWN = {
    # mseitzer/pytorch-fid and toshas/torch-fidelity publish the same bytes, the latter as weights-inception-...
    "pt_inception-2015-12-05-6726825d.pth": Published(
        95_628_359,
        "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2",
        "github.com/mseitzer/pytorch-fid, release fid_weights (Apache-2.0)",
    )
}
Pair = tuple[int, int]


class Convolution(nn.Module):
    """A convolution and a ReLU; the batch norm is in its weights. ``valid``: without padding."""

    def __init__(self, inputs: int, outputs: int, kernel: int | Pair = 1, stride: int = 1, valid: bool = False):
        super().__init__()
        size = (kernel, kernel) if isinstance(kernel, int) else kernel
        self.weight = nn.Parameter(torch.empty(outputs, inputs, *size), requires_grad=False)
        self.bias = nn.Parameter(torch.empty(outputs), requires_grad=False)
        self.stride, self.padding = stride, (0, 0) if valid else (size[0] // 2, size[1] // 2)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight, self.bias, self.stride, self.padding).relu_()


class Points(nn.Module):
    """The 1x1 convolutions with which several branches of a block begin, in one; ``branch_pool`` is averaged here."""

    def __init__(self, inputs: int, **outputs: int):
        super().__init__()
        self.outputs = outputs
        self.weight = nn.Parameter(torch.empty(sum(outputs.values()), inputs, 1, 1), requires_grad=False)
        self.bias = nn.Parameter(torch.empty(sum(outputs.values())), requires_grad=False)

    def forward(self, x: Tensor) -> list[Tensor]:
        """One tensor a branch, in the order of ``outputs``."""
        parts = F.conv2d(x, self.weight, self.bias).split(list(self.outputs.values()), 1)
        return [
            (F.avg_pool2d(part, 3, 1, 1, count_include_pad=False) if name == "branch_pool" else part).relu()
            for name, part in zip(self.outputs, parts, strict=True)
        ]


class A(nn.Module):
    """35x35: 1x1 | 5x5 | 3x3, 3x3 | average."""

    def __init__(self, inputs: int, pool: int):
        super().__init__()
        self.points = Points(inputs, branch1x1=64, branch5x5_1=48, branch3x3dbl_1=64, branch_pool=pool)
        self.branch5x5_2 = Convolution(48, 64, 5)
        self.branch3x3dbl_2, self.branch3x3dbl_3 = Convolution(64, 96, 3), Convolution(96, 96, 3)

    def forward(self, x: Tensor) -> Tensor:
        one, five, three, pool = self.points(x)
        return torch.cat([one, self.branch5x5_2(five), self.branch3x3dbl_3(self.branch3x3dbl_2(three)), pool], 1)


class B(nn.Module):
    """35x35 to 17x17: 3x3 | 3x3, 3x3 | maximum."""

    def __init__(self, inputs: int):
        super().__init__()
        self.branch3x3 = Convolution(inputs, 384, 3, 2, valid=True)
        self.branch3x3dbl_1, self.branch3x3dbl_2 = Convolution(inputs, 64), Convolution(64, 96, 3)
        self.branch3x3dbl_3 = Convolution(96, 96, 3, 2, valid=True)

    def forward(self, x: Tensor) -> Tensor:
        three = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat([self.branch3x3(x), three, F.max_pool2d(x, 3, 2)], 1)


class C(nn.Module):
    """17x17: 1x1 | 1x7, 7x1 | 7x1, 1x7, 7x1, 1x7 | average."""

    def __init__(self, inputs: int, width: int):
        super().__init__()
        self.points = Points(inputs, branch1x1=192, branch7x7_1=width, branch7x7dbl_1=width, branch_pool=192)
        self.branch7x7_2, self.branch7x7_3 = Convolution(width, width, (1, 7)), Convolution(width, 192, (7, 1))
        self.branch7x7dbl_2, self.branch7x7dbl_3 = Convolution(width, width, (7, 1)), Convolution(width, width, (1, 7))
        self.branch7x7dbl_4, self.branch7x7dbl_5 = Convolution(width, width, (7, 1)), Convolution(width, 192, (1, 7))

    def forward(self, x: Tensor) -> Tensor:
        one, seven, double, pool = self.points(x)
        double = self.branch7x7dbl_5(self.branch7x7dbl_4(self.branch7x7dbl_3(self.branch7x7dbl_2(double))))
        return torch.cat([one, self.branch7x7_3(self.branch7x7_2(seven)), double, pool], 1)


class D(nn.Module):
    """17x17 to 8x8: 3x3 | 1x7, 7x1, 3x3 | maximum."""

    def __init__(self, inputs: int):
        super().__init__()
        self.points = Points(inputs, branch3x3_1=192, branch7x7x3_1=192)
        self.branch3x3_2 = Convolution(192, 320, 3, 2, valid=True)
        self.branch7x7x3_2, self.branch7x7x3_3 = Convolution(192, 192, (1, 7)), Convolution(192, 192, (7, 1))
        self.branch7x7x3_4 = Convolution(192, 192, 3, 2, valid=True)

    def forward(self, x: Tensor) -> Tensor:
        three, seven = self.points(x)
        seven = self.branch7x7x3_4(self.branch7x7x3_3(self.branch7x7x3_2(seven)))
        return torch.cat([self.branch3x3_2(three), seven, F.max_pool2d(x, 3, 2)], 1)


class E(nn.Module):
    """8x8: 1x1 | 1x3 beside 3x1 | 3x3, 1x3 beside 3x1 | average; in the last block a maximum, as in the graph."""

    def __init__(self, inputs: int, maximum: bool):
        super().__init__()
        points = {"branch1x1": 320, "branch3x3_1": 384, "branch3x3dbl_1": 448}
        self.points = Points(inputs, **points) if maximum else Points(inputs, **points, branch_pool=192)
        if maximum:
            self.branch_pool = Convolution(inputs, 192)
        self.branch3x3_2a, self.branch3x3_2b = Convolution(384, 384, (1, 3)), Convolution(384, 384, (3, 1))
        self.branch3x3dbl_2 = Convolution(448, 384, 3)
        self.branch3x3dbl_3a, self.branch3x3dbl_3b = Convolution(384, 384, (1, 3)), Convolution(384, 384, (3, 1))
        self.maximum = maximum

    def forward(self, x: Tensor) -> Tensor:
        one, three, double, *pool = self.points(x)
        double = self.branch3x3dbl_2(double)
        if self.maximum:
            pool = [self.branch_pool(F.max_pool2d(x, 3, 1, 1))]
        threes = [self.branch3x3_2a(three), self.branch3x3_2b(three)]
        doubles = [self.branch3x3dbl_3a(double), self.branch3x3dbl_3b(double)]
        return torch.cat([one, *threes, *doubles, *pool], 1)


class Network(nn.Sequential):
    """Frames ``B 3 299 299`` in [-1, 1) to features ``B 2048``."""

    def __init__(self) -> None:
        layers: dict[str, nn.Module] = {
            "Conv2d_1a_3x3": Convolution(3, 32, 3, 2, valid=True),
            "Conv2d_2a_3x3": Convolution(32, 32, 3, valid=True),
            "Conv2d_2b_3x3": Convolution(32, 64, 3),
            "MaxPool_1": nn.MaxPool2d(3, 2),
            "Conv2d_3b_1x1": Convolution(64, 80),
            "Conv2d_4a_3x3": Convolution(80, 192, 3, valid=True),
            "MaxPool_2": nn.MaxPool2d(3, 2),
            "Mixed_5b": A(192, 32),
            "Mixed_5c": A(256, 64),
            "Mixed_5d": A(288, 64),
            "Mixed_6a": B(288),
            "Mixed_6b": C(768, 128),
            "Mixed_6c": C(768, 160),
            "Mixed_6d": C(768, 160),
            "Mixed_6e": C(768, 192),
            "Mixed_7a": D(768),
            "Mixed_7b": E(1280, maximum=False),
            "Mixed_7c": E(2048, maximum=True),
        }
        super().__init__(OrderedDict(layers))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).mean((2, 3))


# --- input ------------------------------------------------------------------------------------------------------------


def tf1(frames: np.ndarray) -> np.ndarray:
    """TensorFlow 1's ``resize_bilinear`` to 299x299, as FID is defined with: bit for bit torch-fidelity's
    ``interpolate_bilinear_2d_like_tensorflow1x``."""
    return resize.tf1(frames, SIZE)


def antialias(frames: np.ndarray) -> np.ndarray:
    """torch's antialiased bilinear to 299x299: torchmetrics' ``FrechetInceptionDistance`` unless it is told not to."""
    x = rearrange(torch.from_numpy(frames), "t h w c -> t c h w").float()
    x = F.interpolate(x, (SIZE, SIZE), mode="bilinear", antialias=True)
    return rearrange(x, "t c h w -> t h w c").contiguous().numpy()


RESIZES: dict[str, Callable[[np.ndarray], np.ndarray]] = {"tf1": tf1, "antialias": antialias}


class Inception:
    """The extractor of FID; see ``features.Extractor``. A clip is one frame.

    Prepared frames stay float32: rounded to uint8 they would move the features by 4e-4 [measured], and at 299x299 they
    are smaller than a frame of 512x1024 anyway.

    Args:
        file: the public file (``KNOWN``), by its content; or its tensors, by the same names, as safetensors with
            drivesim's header: such a copy cannot be verified, and its first eight digits are in ``name``.
        resize: a name of ``RESIZES``. ``tf1`` is the definition.

    Raises:
        Mistake: no such file, none of ``KNOWN``, or not the tensors of this Inception.
    """

    dim, min_frames, size = FEATURES, 1, (SIZE, SIZE)

    def __init__(self, file: str | Path, device: str | torch.device = "cpu", resize: str = "tf1"):
        file = Path(file)
        if file.suffix == ".safetensors":
            tensors, self.sha = weights.load(file, "extractor")[0], disk.sha256(file)
            self.name = f"inception-{self.sha[:8]}"
        else:
            self.sha, self.name = verify(file, KNOWN), "inception"
            tensors = pickled.read(file)
        network = Network()
        fill(network, tensors, file)
        self.device, self.prepare = torch.device(device), RESIZES[resize]
        network = network.to(self.device).eval().requires_grad_(False)
        self.network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    @torch.inference_mode()
    def __call__(self, prepared: Tensor) -> Tensor:
        check_prepared(prepared, self.min_frames, self.size)
        if prepared.shape[1] != 1:
            raise ValueError(f"Inception looks at single frames, not at {prepared.shape[1]}")
        x = rearrange(prepared.to(self.device, torch.float32), "b 1 h w c -> b c h w")
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):  # TF32 has three digits
            return self.network((x - 128) / 128).cpu()


# --- weight files -----------------------------------------------------------------------------------------------------


def shapes(network: Network) -> dict[str, tuple[int, ...]]:
    """What the public file must hold, by its names; its 1008 logits (``fc``) are no features and may be absent."""
    wanted: dict[str, tuple[int, ...]] = {}
    for name, module in network.named_modules():
        for place, outputs in _places(name, module):
            wanted[f"{place}.conv.weight"] = (outputs, *module.get_parameter("weight").shape[1:])
            wanted |= {f"{place}.bn.{value}": (outputs,) for value in NORM}
    return wanted


def fill(network: Network, tensors: Mapping[str, Tensor], where: object) -> None:
    """The tensors of the public file into the network, each batch norm folded into its convolution in float64.

    Raises:
        Mistake: tensors are missing, unknown or of another shape; they are named.
    """
    used = {n: t for n, t in tensors.items() if not n.startswith("fc.") and not n.endswith(".num_batches_tracked")}
    fit(used, shapes(network), where)
    for name, module in network.named_modules():
        folded = [_folded(tensors, place) for place, _ in _places(name, module)]
        if folded:
            module.get_parameter("weight").data.copy_(torch.cat([weight for weight, _ in folded]))
            module.get_parameter("bias").data.copy_(torch.cat([bias for _, bias in folded]))


def _places(name: str, module: nn.Module) -> Iterator[tuple[str, int]]:
    """The public names of the convolutions that ``module`` stands for, with their outputs."""
    if isinstance(module, Convolution):
        yield name, len(module.bias)
    elif isinstance(module, Points):
        block = name.rpartition(".")[0]
        yield from ((f"{block}.{branch}", outputs) for branch, outputs in module.outputs.items())


def _folded(tensors: Mapping[str, Tensor], place: str) -> tuple[Tensor, Tensor]:
    """(weight, bias) of a convolution followed by its batch norm."""
    gamma, beta, mean, variance = (tensors[f"{place}.bn.{value}"].double() for value in NORM)
    scale = gamma * (variance + EPSILON).rsqrt()
    return tensors[f"{place}.conv.weight"].double() * scale[:, None, None, None], beta - mean * scale
