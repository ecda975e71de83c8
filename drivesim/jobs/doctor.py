"""What a bug report needs, in one block: versions, devices, codecs, weights, disk. It looks; it changes nothing."""

import importlib.metadata
import os
import platform
import shutil
import tempfile
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch

from drivesim import __version__, disk, weights
from drivesim.data import video
from drivesim.errors import Mistake
from drivesim.jobs import tiny
from drivesim.jobs.processes import cores
from drivesim.metrics import builtin

PACKAGES = (
    "torch",
    "pytorch-lightning",
    "torchmetrics",
    "numpy",
    "av",
    "opencv-python-headless",
    "safetensors",
    "pyarrow",
    "pydantic",
)
GIB = 2**30


def run(weights_folder: Path | None = None) -> None:
    """Prints the block.

    Args:
        weights_folder: a folder of weight files to check as well, a run's own ``weights`` included.

    Raises:
        Mistake: there is no such folder.
    """
    for name, value in findings(weights_folder):
        print(f"{name:<24}{value}")


def findings(weights_folder: Path | None = None) -> list[tuple[str, str]]:
    """The rows of the block, most general first."""
    rows = [("drivesim", __version__), ("python", f"{platform.python_version()} on {platform.platform()}")]
    rows += [(name, _version(name)) for name in PACKAGES]
    rows += [("cpu", _cpu()), *_gpus(), ("bf16", _bf16()), ("h264", _codec()), ("disk", _disk(Path.cwd()))]
    rows.append((builtin.NAME, _builtin()))
    return rows + ([] if weights_folder is None else _weights(weights_folder))


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "MISSING"


def _cpu() -> str:
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / GIB
    vectors = torch.backends.cpu.get_cpu_capability()
    return f"{cores()} cores, {torch.get_num_threads()} threads of torch, {memory:.0f} GiB, {vectors}"


def _gpus() -> list[tuple[str, str]]:
    if torch.backends.mps.is_available():
        return [("gpu", "mps")]
    if not torch.cuda.is_available():
        return [("gpu", f"none (torch built for CUDA {torch.version.cuda or 'none'})")]
    rows = []
    for index in range(torch.cuda.device_count()):
        device = torch.cuda.get_device_properties(index)
        text = f"{device.name}, {device.total_memory / GIB:.0f} GiB, sm_{device.major}{device.minor}"
        rows.append((f"cuda:{index}", f"{text}, CUDA {torch.version.cuda}"))
    return rows


def _bf16() -> str:
    if torch.cuda.is_available():
        return "yes" if torch.cuda.is_bf16_supported() else "no"
    able = torch.cpu.get_capabilities()
    return (
        "yes"
        if able.get("avx512_bf16") or able.get("amx_bf16") or able.get("bf16")
        else "in software only (slow on this CPU)"
    )


def _codec() -> str:
    """Writes three frames and reads them back: that the encoder is there and works, not only that it is listed."""
    frames = np.repeat(np.arange(0, 240, 80, dtype=np.uint8), 64 * 64 * 3).reshape(3, 64, 64, 3)
    try:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "probe.mp4"
            with video.Writer(file, (64, 64), Fraction(30)) as writer:
                writer.write(frames)
            back = video.read(file, fps=None, start=Fraction(0), frames=3, size=None).frames
    except Exception as problem:  # whatever a broken codec raises is what the report is for
        return f"FAILS: {type(problem).__name__}: {problem}"
    off = int(np.abs(back.astype(int) - frames).max())
    return "written and read back" if off < 20 else f"FAILS: levels are off by {off}"


def _disk(folder: Path) -> str:
    usage = shutil.disk_usage(folder)
    return f"{usage.free / GIB:.0f} GiB free of {usage.total / GIB:.0f} where this runs"


def _builtin() -> str:
    if not builtin.FILE.is_file():
        return f"MISSING: {builtin.FILE}"
    found = disk.sha256(builtin.FILE)
    return f"verified {found[:12]}" if found == builtin.SHA256 else f"ALTERED: {found[:12]}, not {builtin.SHA256[:12]}"


def _weights(folder: Path) -> list[tuple[str, str]]:
    folder = tiny.named(folder)
    folder = folder / "weights" if (folder / "weights").is_dir() else folder
    if not folder.is_dir():
        raise Mistake("no such folder", where=folder)
    return [(file.stem, _weight(file)) for file in sorted(folder.glob("*.safetensors"))] or [
        ("weights", f"none in {folder}")
    ]


def _weight(file: Path) -> str:
    try:
        header = weights.header(file)
    except Mistake as mistake:
        return f"UNREADABLE: {mistake.what}"
    height, width = header.size
    return f"{header.stage}, {height}x{width}, {header.train.get('steps', '?')} steps, {disk.sha256(file)[:12]}"
