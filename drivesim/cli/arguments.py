"""What may stand on the command line: words, values, and the options that several commands share."""

import argparse
import math
import re
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, NoReturn

from drivesim.errors import Mistake, nearest

OVERRIDE = re.compile(r"[A-Za-z_]\w*(\.\w+)*=")


class Parser(argparse.ArgumentParser):
    """Of one command; what argparse would exit on is raised as ``Mistake``."""

    def error(self, message: str) -> NoReturn:
        required = message.partition("the following arguments are required: ")[2]
        what, mend = message.removeprefix("argument "), f"'{self.prog} --help' shows how it is used"
        if wrong := re.fullmatch(r"(\S+): invalid choice: '(.*)' \(choose from (.*)\)", what):
            what, mend = f"{wrong[1]}: '{wrong[2]}' is not known", nearest(wrong[2], re.findall(r"[\w-]+", wrong[3]))
        raise Mistake(f"{required} is required" if required else what, where=self.name, mend=mend)

    @property
    def name(self) -> str:
        return self.prog.removeprefix("drivesim ")

    def read(self, words: Sequence[str]) -> argparse.Namespace:
        """The arguments, options in any order.

        Raises:
            Mistake: an unknown option (with the nearest real one), a value that does not fit.
        """
        known = self._option_string_actions
        for word in words:
            option = word.partition("=")[0]
            if option.startswith("-") and option not in known and not re.fullmatch(r"-|-[\d.].*", option):
                names = [name for name in known if name.startswith("--")]
                raise Mistake(f"unknown option '{option}'", where=self.name, mend=nearest(option, names))
        return self.parse_intermixed_args(list(words))


# --- values -----------------------------------------------------------------------------------------------------------


def size(text: str) -> tuple[int, int]:
    """``HxW`` in pixels."""
    match = re.fullmatch(r"([1-9]\d*)[xX]([1-9]\d*)", text)
    if not match:
        raise argparse.ArgumentTypeError(f"'{text}' is not HEIGHTxWIDTH in pixels, for example 256x512")
    return int(match[1]), int(match[2])


def rate(text: str) -> Fraction:
    """Frames per second: a whole number, a fraction or a decimal, kept exactly."""
    return _above_zero(text, "a frame rate, for example 30, 15/8 or 7.5")


def _above_zero(text: str, what: str) -> Fraction:
    try:
        value = Fraction(text)
    except (ValueError, ZeroDivisionError):
        value = Fraction(0)
    if value <= 0:
        raise argparse.ArgumentTypeError(f"'{text}' is not {what}")
    return value


def seed(text: str) -> int:
    """A whole number from 0."""
    if not re.fullmatch(r"\d{1,18}", text):
        raise argparse.ArgumentTypeError(f"'{text}' is not a seed: a whole number from 0")
    return int(text)


def count(text: str) -> int:
    """A whole number from 1."""
    if not re.fullmatch(r"[1-9]\d{0,8}", text):
        raise argparse.ArgumentTypeError(f"'{text}' is not a whole number from 1")
    return int(text)


def minutes(text: str) -> float:
    """A length above 0."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"'{text}' is not a length in minutes, for example 2 or 0.5")
    return value


def seconds(text: str) -> Fraction:
    """A length, kept exactly."""
    return _above_zero(text, "a length in seconds, for example 4 or 2.5")


def device(text: str) -> str:
    if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", text):
        raise argparse.ArgumentTypeError(f"'{text}' is not a device: auto, cpu, mps, cuda or cuda:N")
    return text


def chosen_device(name: str) -> str:
    """``auto`` is the GPU where there is one; a device that is absent is a mistake now rather than an error later. On a
    CPU the process keeps its memory from here on.

    Raises:
        Mistake: there is no such device.
    """
    import torch

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cpu":
        from drivesim.rollout import memory

        memory.keep()
    count = torch.cuda.device_count() if name.startswith("cuda") else int(torch.backends.mps.is_available())
    if name != "cpu" and int(name.partition(":")[2] or 0) >= count:
        raise Mistake(f"--device {name}: there is no such device here", mend="'drivesim doctor' lists them")
    return name


def paths(args: argparse.Namespace, *names: str) -> list[Path]:
    """The words of the command.

    Raises:
        Mistake: they are not as many as ``names``.
    """
    expected = f"expected: {' '.join(['drivesim', args.command, *names])}"
    if len(args.words) > len(names):
        raise Mistake(f"unexpected argument '{args.words[len(names)]}'", where=args.command, mend=expected)
    if len(args.words) < len(names):
        raise Mistake(f"{names[len(args.words)]} is missing", where=args.command, mend=expected)
    return [Path(word) for word in args.words]


def file_and_overrides(words: Sequence[str], what: str) -> tuple[Path | None, list[str]]:
    """At most one file among ``key=value`` overrides, in any order.

    Raises:
        Mistake: more than one, or a setting without a value.
    """
    overrides = [word for word in words if OVERRIDE.match(word)]
    files = [word for word in words if not OVERRIDE.match(word)]
    for word in files:
        if re.fullmatch(r"[a-z]\w*(\.[a-z]\w*)+", word) and Path(word).suffix not in (".yaml", ".yml"):
            if not Path(word).exists():
                raise Mistake("no such file", where=word, mend=f"a setting has a value: {word}=VALUE")
    if len(files) > 1:
        raise Mistake(f"unexpected argument '{files[1]}'", mend=f"expected: one {what}, then overrides as key=value")
    return (Path(files[0]) if files else None), overrides


# --- options that several commands share ------------------------------------------------------------------------------


def out_option(parser: Parser, default: str) -> None:
    parser.add_argument("--out", type=Path, metavar="DIR", help=f"folder that is written (default {default})")


def device_option(parser: Parser) -> None:
    parser.add_argument("--device", type=device, default="auto", help="auto (default), cpu, mps, cuda or cuda:N")


def dry_run_option(parser: Parser) -> None:
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="print time, memory, disk and the largest setting that fits, from a few measured steps, and stop",
    )


def engine_options(parser: Parser, what: str, threads: bool = True) -> None:
    text = f"who does it: process (default), this one; ray, many workers, {what} a task (docs/scale.md)"
    parser.add_argument("--engine", choices=("process", "ray"), default="process", help=text)
    parser.add_argument("--workers", type=count, metavar="N", help="that Ray starts here (default: as many as fit)")
    parser.add_argument("--ray-address", default="", metavar="HOST:PORT", help="a Ray cluster (default $RAY_ADDRESS)")
    if threads:
        parser.add_argument(
            "--threads", type=count, metavar="N", help="of a process on a CPU (default: all; of Ray, 1)"
        )


def chosen_engine(args: argparse.Namespace) -> Any:
    """``fanout.Engine`` as ``engine_options`` were given."""
    from drivesim.jobs.fanout import Engine

    return Engine(args.engine, args.workers, args.ray_address, vars(args).get("threads"))


def fps_option(parser: Parser, text: str, **kwargs: Any) -> None:
    parser.add_argument("--fps", type=rate, metavar="R", help=f"{text}, exact: 30, 15/8, 7.5", **kwargs)
