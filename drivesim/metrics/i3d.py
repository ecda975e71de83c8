"""Inception-I3D on Kinetics-400, in whose logits FVD is defined [Carreira 2017; Unterthiner 2018, i3d-kinetics-400/1].

The network is built for inference alone: batch norms are folded into the convolutions, the three 1x1 convolutions that
read the same input run as one, memory is channels-last, and the max pools run an axis at a time.

Weight files are read by what they hold, never run: pickles by ``weights_only``, a TorchScript archive as the zip of
tensors that it is. Two ways of naming the layers are about, hassony2's and piergiaj's.
"""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from drivesim import disk, pickled
from drivesim.errors import Mistake
from drivesim.metrics.features import check_prepared
from drivesim.metrics.published import Published, wanted
from drivesim.metrics.resize import RESIZES, SIZE

EPSILON = 1e-3
"""Of the 57 batch norms in the reference. Ports with torch's default 1e-5 are 5 to 7 % off (presets say so)."""
MIN_FRAMES = 9  # 8 leave one frame to a temporal average over two: NaN in the reference
LOGITS = 400
STEM = ("1a_7x7", "2b_1x1", "2c_3x3")
# inputs, then outputs of: 1x1 | 1x1, 3x3x3 | 1x1, 3x3x3 | pool, 1x1
MIXED: dict[str, tuple[int, ...]] = {
    "3b": (192, 64, 96, 128, 16, 32, 32),
    "3c": (256, 128, 128, 192, 32, 96, 64),
    "4b": (480, 192, 96, 208, 16, 48, 64),
    "4c": (512, 160, 112, 224, 24, 64, 64),
    "4d": (512, 128, 128, 256, 24, 64, 64),
    "4e": (512, 112, 144, 288, 32, 64, 64),
    "4f": (528, 256, 160, 320, 32, 128, 128),
    "5b": (832, 256, 160, 320, 32, 128, 128),
    "5c": (832, 384, 192, 384, 48, 128, 128),
}
BRANCHES = ("0", "1a", "1b", "2a", "2b", "3b")
POOLED_BEFORE = {"3b": ((1, 3, 3), (1, 2, 2)), "4b": ((3, 3, 3), (2, 2, 2)), "5b": ((2, 2, 2), (2, 2, 2))}


# The standard, of the same weights as the definition's graph; and TATS' copy of them, which needs EPSILON as well.
KNOWN = {
    "i3d_torchscript.pt": Published(
        51_235_320,
        "bec6519f66ea534e953026b4ae2c65553c17bf105611c746d904657e5860a5e2",
        "github.com/universome/stylegan-v, the detector of its metrics",
    )
}
SAME = "55095f049e706479d48e221adcdb145b2b9dc930ba28b081ed72367ffaa32343"  # i3d_pretrained_400.pt of songweige/TATS
OTHER = "2609088c2e8c868187c9921c50bc225329a9057ed75e76120e0b4a397a2c7538"  # i3d_rgb_imagenet.pt of piergiaj


class Convolution(nn.Module):
    """A 3-D convolution with TensorFlow's SAME padding and a ReLU; the batch norm is in its weights."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, inputs, kernel, kernel, kernel), requires_grad=False)
        self.bias = nn.Parameter(torch.empty(outputs), requires_grad=False)
        self.kernel, self.stride = kernel, stride

    def forward(self, x: Tensor) -> Tensor:
        if self.kernel == 1:
            # A product of matrices a frame: the last bits of a convolution depend on the number of threads here, and so
            # do those of one product for all frames, which MKL may cut along its sums.
            frames = rearrange(x, "b c t h w -> (b t) (h w) c")
            rows = torch.baddbmm(self.bias, frames, self.weight.flatten(1).t().expand(len(frames), -1, -1)).relu_()
            return rearrange(rows, "(b t) (h w) c -> b c t h w", t=x.shape[2], h=x.shape[3])
        if self.stride > 1:  # SAME is lopsided here, which a convolution's own padding cannot be
            pads = [same(n, self.kernel, self.stride) for n in reversed(x.shape[2:])]
            x, padding = F.pad(x, [side for pad in pads for side in pad]), 0
        else:
            padding = self.kernel // 2
        if x.device.type == "cpu" and torch.backends.mkldnn.is_available():
            # asked for by name: a batch of one would fall back to a loop that takes a fifth longer
            sizes = ([padding] * 3, [self.stride] * 3, [1] * 3)
            return torch.mkldnn_convolution(x, self.weight, self.bias, *sizes, 1).relu_()
        return F.conv3d(x, self.weight, self.bias, self.stride, padding).relu_()


class Mixed(nn.Module):
    """An Inception block: four branches side by side, the 1x1 convolutions on the input in one."""

    def __init__(self, inputs: int, one: int, two_in: int, two: int, three_in: int, three: int, four: int):
        super().__init__()
        self.split = (one, two_in, three_in)
        self.point = Convolution(inputs, one + two_in + three_in, 1)
        self.two, self.three = Convolution(two_in, two, 3), Convolution(three_in, three, 3)
        self.four = Convolution(inputs, four, 1)

    def forward(self, x: Tensor) -> Tensor:
        one, two, three = self.point(x).split(self.split, 1)
        pooled = self.four(max_pool(x, (3, 3, 3), (1, 1, 1)))
        return torch.cat([one, self.two(_last(two)), self.three(_last(three)), pooled], 1)


class Network(nn.Module):
    """Video ``B 3 T 224 224`` in [-1, 1] to logits ``B 400``, the mean over time."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.ModuleList([Convolution(3, 64, 7, 2), Convolution(64, 64, 1), Convolution(64, 192, 3)])
        self.mixed = nn.ModuleDict({name: Mixed(*widths) for name, widths in MIXED.items()})
        self.logits = nn.Linear(1024, LOGITS)

    def forward(self, x: Tensor) -> Tensor:
        x = max_pool(self.stem[0](_last(x)), (1, 3, 3), (1, 2, 2))
        x = self.stem[2](self.stem[1](x))
        for name, block in self.mixed.items():
            if name in POOLED_BEFORE:
                x = max_pool(x, *POOLED_BEFORE[name])
            x = block(x)
        x = x.float().mean((3, 4))  # 7x7 is left: the average pool's (2, 7, 7) in two steps
        x = (x[:, :, 1:] + x[:, :, :-1]).mean(2) / 2  # the logits are linear, so their mean over time is taken first
        return F.linear(x, self.logits.weight.float(), self.logits.bias.float())


def same(length: int, kernel: int, stride: int) -> tuple[int, int]:
    """TensorFlow's SAME padding before and behind an axis: the odd one goes behind."""
    total = max((math.ceil(length / stride) - 1) * stride + kernel - length, 0)
    return total // 2, total - total // 2


def max_pool(x: Tensor, kernel: tuple[int, ...], stride: tuple[int, ...]) -> Tensor:
    """``B C T H W``, SAME, an axis at a time: a maximum of maxima, at a fraction of the reads of the whole window.

    What lies outside counts as zero in the reference; behind a ReLU that is the same as leaving it out. There bfloat16
    numbers are also ordered as their bits are, and integers are compared in less than half the time.
    """
    if x.dtype == torch.bfloat16:
        return max_pool(x.view(torch.int16), kernel, stride).view(torch.bfloat16)
    for axis, (width, step) in enumerate(zip(kernel, stride, strict=True), 2):
        if width > 1:
            x = _axis_max(x, axis, width, step)
    return x


def _axis_max(x: Tensor, axis: int, kernel: int, stride: int) -> Tensor:
    length, front = x.shape[axis], same(x.shape[axis], kernel, stride)[0]
    count = math.ceil(length / stride)
    taps = sorted(range(kernel), key=lambda tap: abs(tap - front))  # the one that is inside everywhere goes first
    out = x.narrow(axis, 0, length)[_every(axis, 0, length, stride)].clone(memory_format=torch.channels_last_3d)
    for tap in taps[1:]:
        shift = tap - front
        low = math.ceil(-shift / stride) if shift < 0 else 0
        high = min(count, (length - 1 - shift) // stride + 1)
        if high > low:
            part = out[_every(axis, low, high, 1)]
            begin = low * stride + shift
            other = x[_every(axis, begin, begin + (high - low - 1) * stride + 1, stride)]
            torch.maximum(part, other, out=part)
    return out


def _every(axis: int, begin: int, end: int, step: int) -> tuple[slice, ...]:
    return (*[slice(None)] * axis, slice(begin, end, step))


def _last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last_3d)


class I3D:
    """The extractor; see ``features.Extractor``. ``name`` is ``i3d`` for verified Kinetics weights only.

    Args:
        file: a public one, or another of the same layout: then ``name`` says that it is not verified.
        resize: a name of ``resize.RESIZES``.
        epsilon: of the batch norms; 1e-3 is the reference's.
        precision: ``bf16`` is twice as fast, and about 1 % off.

    Raises:
        Mistake: no such file, not I3D's tensors, or a known file that is not for FVD.
    """

    dim, min_frames, size = LOGITS, MIN_FRAMES, (SIZE, SIZE)

    def __init__(
        self,
        file: str | Path,
        device: str | torch.device = "cpu",
        resize: str = "bilinear",
        epsilon: float = EPSILON,
        precision: Literal["32", "bf16"] = "32",
    ):
        tensors, self.sha = read(Path(file))
        if self.sha == OTHER:
            raise Mistake("holds other weights than FVD is measured in", where=file, mend=wanted(KNOWN))
        verified = self.sha in (KNOWN["i3d_torchscript.pt"].sha256, SAME)
        self.name = "i3d" if verified else f"i3d-{self.sha[:8]}"
        self.device, self.prepare = torch.device(device), RESIZES[resize]
        self.dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        network = Network()
        fill(network, tensors, epsilon)
        self.network = network.to(self.device, self.dtype).eval().requires_grad_(False)
        for module in self.network.modules():
            if isinstance(module, Convolution):
                module.weight.data = _last(module.weight.data)

    @torch.inference_mode()
    def __call__(self, prepared: Tensor) -> Tensor:
        check_prepared(prepared, self.min_frames, self.size)
        x = rearrange(prepared.to(self.device, torch.float32), "b t h w c -> b c t h w")
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):  # TF32 has three digits
            return self.network((x * (2 / 255) - 1).to(self.dtype)).cpu()


# --- weight files -----------------------------------------------------------------------------------------------------


def read(file: Path) -> tuple[dict[str, Tensor], str]:
    """Tensors by canonical name (``1a_7x7.weight``, ``3b.1a.mean``, ``logits.bias``), and the file's SHA-256.

    Raises:
        Mistake: no such file, not a weight file, or not the tensors of I3D (which are named).
    """
    if not file.is_file():
        raise Mistake("no such weight file", where=file, mend=wanted(KNOWN))
    sha = disk.sha256(file)
    found = {}
    for name, tensor in pickled.read(file).items():
        found[_canonical(name)] = tensor.float()
    shapes = _shapes()
    missing = sorted(shapes.keys() - found.keys())  # more than these is no harm: ports carry counters and gammas
    bent = sorted(name for name in shapes.keys() & found.keys() if tuple(found[name].shape) != shapes[name])
    for kind, names in (("has no", missing), ("has of another shape", bent)):
        if names:
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            raise Mistake(f"not Kinetics I3D: {kind} {', '.join(names[:3])}{more}", where=file, mend=wanted(KNOWN))
    return found, sha


SUFFIX = re.compile(
    r"(?:^|\.)(?:conv3d_(?P<stem>\w+)|mixed_(?P<mixed>\d\w)\.(?P<branch>b\d[ab]?|branch_\d(?:\.[01])?)|(?P<last>logits))"
    r"\.(?P<kind>conv3d|batch3d|bn)\.(?P<value>weight|bias|running_mean|running_var)$",
    re.IGNORECASE,
)
HASSONY = {
    "branch_0": "0",
    "branch_1.0": "1a",
    "branch_1.1": "1b",
    "branch_2.0": "2a",
    "branch_2.1": "2b",
    "branch_3.1": "3b",
}


def _canonical(name: str) -> str:
    """``PLACE.VALUE`` of a tensor in either layout, whatever stands before; the name itself where it is of neither."""
    match = SUFFIX.search(name)
    if match is None:
        return name
    stem, mixed, branch, kind, value = (match[key] for key in ("stem", "mixed", "branch", "kind", "value"))
    if match["last"] or (stem and stem.lower() == "0c_1x1"):
        place = "logits"
    elif stem:
        place = stem.lower()
    else:
        place = f"{mixed.lower()}.{HASSONY.get(branch.lower(), branch.lower().removeprefix('b'))}"
    norm = {"weight": "gamma", "bias": "beta", "running_mean": "mean", "running_var": "variance"}
    return f"{place}.{value if kind.lower() == 'conv3d' else norm[value]}"


def _shapes() -> dict[str, tuple[int, ...]]:
    """What a weight file must hold: 57 convolutions with their norms, and the logits."""
    shapes: dict[str, tuple[int, ...]] = {"logits.weight": (LOGITS, 1024, 1, 1, 1), "logits.bias": (LOGITS,)}
    convolutions = {"1a_7x7": (64, 3, 7), "2b_1x1": (64, 64, 1), "2c_3x3": (192, 64, 3)}
    for block, (inputs, one, two_in, two, three_in, three, four) in MIXED.items():
        wanted = ((one, inputs, 1), (two_in, inputs, 1), (two, two_in, 3), (three_in, inputs, 1), (three, three_in, 3))
        for branch, shape in zip(BRANCHES, (*wanted, (four, inputs, 1)), strict=True):
            convolutions[f"{block}.{branch}"] = shape
    for place, (outputs, inputs, kernel) in convolutions.items():
        shapes[f"{place}.weight"] = (outputs, inputs, kernel, kernel, kernel)
        shapes |= {f"{place}.{value}": (outputs,) for value in ("beta", "mean", "variance")}
    return shapes


def fill(network: Network, tensors: Mapping[str, Tensor], epsilon: float) -> None:
    """The tensors of ``read`` into the network, each batch norm folded into its convolution in float64."""

    def put(into: Convolution, *places: str) -> None:
        folded = [_folded(tensors, place, epsilon) for place in places]
        into.weight.data.copy_(torch.cat([weight for weight, _ in folded]))
        into.bias.data.copy_(torch.cat([bias for _, bias in folded]))

    for convolution, place in zip(network.stem, STEM, strict=True):
        assert isinstance(convolution, Convolution)
        put(convolution, place)
    for name, block in network.mixed.items():
        assert isinstance(block, Mixed)
        put(block.point, f"{name}.0", f"{name}.1a", f"{name}.2a")
        put(block.two, f"{name}.1b")
        put(block.three, f"{name}.2b")
        put(block.four, f"{name}.3b")
    network.logits.weight.data.copy_(tensors["logits.weight"].flatten(1))
    network.logits.bias.data.copy_(tensors["logits.bias"])


def _folded(tensors: Mapping[str, Tensor], place: str, epsilon: float) -> tuple[Tensor, Tensor]:
    """(weight, bias) of a convolution followed by its norm; the reference has no gamma, ports carry one of ones."""
    scale = (tensors[f"{place}.variance"].double() + epsilon).rsqrt()
    if f"{place}.gamma" in tensors:
        scale = scale * tensors[f"{place}.gamma"].double()
    bias = tensors[f"{place}.beta"].double() - tensors[f"{place}.mean"].double() * scale
    return tensors[f"{place}.weight"].double() * scale[:, None, None, None, None], bias
