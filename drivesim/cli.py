"""The ``drivesim`` command: parses, then calls one function of ``drivesim.jobs``.

Nothing heavy is imported before a job is chosen, so that ``--help`` and mistakes answer at once. Options come in any
order, also between ``key=value`` overrides. A mistake is one to three lines on stderr, status 2, never a page of usage.
"""

import argparse
import errno
import json
import math
import os
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, NoReturn

from drivesim import __version__
from drivesim.errors import EXIT_DEFECT, EXIT_DONE, EXIT_INTERRUPTED, EXIT_MISTAKE, Interrupted, Mistake, nearest

REFUSED = {errno.ENAMETOOLONG, errno.EACCES, errno.EPERM, errno.EROFS, errno.ELOOP, errno.ENOTDIR}
"""What the system says of a path that only the user can mend."""
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


@dataclass(frozen=True)
class Command:
    """One command: its help, its options and the job that it calls."""

    usage: str
    summary: str
    example: str
    options: Callable[[Parser], None]
    run: Callable[[argparse.Namespace], None]

    def parser(self, name: str) -> Parser:
        parser = Parser(
            prog=f"drivesim {name}",
            usage=f"drivesim {name} {self.usage}".rstrip(),
            description=self.summary,
            epilog=f"example:\n  {self.example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        parser.add_argument("words", nargs="*", help=argparse.SUPPRESS)
        parser.set_defaults(command=name)
        self.options(parser)
        parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
        return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns its exit status (see ``errors``)."""
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        return _dispatch([word for word in words if word != "--debug"])
    except (KeyboardInterrupt, Interrupted) as stop:
        resumable = bool({"train", "encode", "generate"} & set(words[:1]))
        mend = "the same command with --resume goes on" if resumable else "what was written so far is in --out"
        return _failed(stop, EXIT_INTERRUPTED, f"interrupted; {str(stop) or mend}", words)
    except Mistake as mistake:
        return _failed(mistake, EXIT_MISTAKE, "\n".join(str(mistake).splitlines()[:3]), words)
    except Exception as defect:
        if isinstance(defect, OSError) and defect.errno in REFUSED and defect.filename is not None:
            return _failed(defect, EXIT_MISTAKE, str(Mistake(f"{defect.strerror}", where=defect.filename)), words)
        what = f"a defect of drivesim: {type(defect).__name__}: {' '.join(str(defect).split())[:300]}"
        return _failed(defect, EXIT_DEFECT, f"{what} (run with --debug for the traceback)", words)


def _failed(problem: BaseException, status: int, text: str, words: list[str]) -> int:
    if "--debug" in words:
        import traceback

        traceback.print_exception(problem)
    print(f"drivesim: {text}", file=sys.stderr)
    return status


def _dispatch(words: list[str]) -> int:
    if not words:
        raise Mistake("a command is expected", mend=f"one of {', '.join(COMMANDS)}; 'drivesim --help' explains them")
    name, rest = words[0], words[1:]
    if name in ("-h", "--help", "help"):
        print(_overview())
    elif name == "--version":
        print(f"drivesim {__version__}")
    elif name.startswith("-"):
        raise Mistake(f"unknown option '{name}'", mend=nearest(name, ("--help", "--version", "--debug")))
    elif name not in COMMANDS:
        raise Mistake(f"unknown command '{name}'", mend=nearest(name, COMMANDS))
    else:
        parser = COMMANDS[name].parser(name)
        if "-h" in rest or "--help" in rest:
            parser.print_help()
        else:
            COMMANDS[name].run(parser.read(rest))
    return EXIT_DONE


def _overview() -> str:
    rows = [f"  {name:<10}{command.summary}" for name, command in COMMANDS.items()]
    return "\n".join(
        [
            "usage: drivesim COMMAND ...",
            "",
            "Driving video from a Video Latent Diffusion Model: trained from scratch, rolled out for minutes, scored.",
            "",
            *rows,
            "",
            "'drivesim COMMAND --help' shows its options and an example. --debug shows the traceback of an error.",
            "exit status: 0 done; 1 a defect of drivesim; 2 a mistake in the request; 75 interrupted, can be resumed",
        ]
    )


# --- values -----------------------------------------------------------------------------------------------------------


def size(text: str) -> tuple[int, int]:
    """``HxW`` in pixels."""
    match = re.fullmatch(r"([1-9]\d*)[xX]([1-9]\d*)", text)
    if not match:
        raise argparse.ArgumentTypeError(f"'{text}' is not HEIGHTxWIDTH in pixels, for example 256x512")
    return int(match[1]), int(match[2])


def rate(text: str) -> Fraction:
    """Frames per second: a whole number, a fraction or a decimal, kept exactly."""
    try:
        value = Fraction(text)
    except (ValueError, ZeroDivisionError):
        value = Fraction(0)
    if value <= 0:
        raise argparse.ArgumentTypeError(f"'{text}' is not a frame rate, for example 30, 15/8 or 7.5")
    return value


def seed(text: str) -> int:
    if not re.fullmatch(r"\d{1,18}", text):
        raise argparse.ArgumentTypeError(f"'{text}' is not a seed: a whole number from 0")
    return int(text)


def count(text: str) -> int:
    if not re.fullmatch(r"[1-9]\d{0,8}", text):
        raise argparse.ArgumentTypeError(f"'{text}' is not a whole number from 1")
    return int(text)


def minutes(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"'{text}' is not a length in minutes, for example 2 or 0.5")
    return value


def seconds(text: str) -> Fraction:
    """A length, kept exactly."""
    try:
        value = Fraction(text)
    except (ValueError, ZeroDivisionError):
        value = Fraction(0)
    if value <= 0:
        raise argparse.ArgumentTypeError(f"'{text}' is not a length in seconds, for example 4 or 2.5")
    return value


def device(text: str) -> str:
    if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", text):
        raise argparse.ArgumentTypeError(f"'{text}' is not a device: auto, cpu, mps, cuda or cuda:N")
    return text


def _chosen(name: str) -> str:
    """``auto`` is the GPU where there is one; a device that is absent is a mistake now rather than an error later. On a
    CPU the process keeps its memory from here on."""
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


def _paths(args: argparse.Namespace, *names: str) -> list[Path]:
    """The words of the command, which must be as many as ``names``."""
    expected = f"expected: {' '.join(['drivesim', args.command, *names])}"
    if len(args.words) > len(names):
        raise Mistake(f"unexpected argument '{args.words[len(names)]}'", where=args.command, mend=expected)
    if len(args.words) < len(names):
        raise Mistake(f"{names[len(args.words)]} is missing", where=args.command, mend=expected)
    return [Path(word) for word in args.words]


def _file_and_overrides(words: Sequence[str], what: str) -> tuple[Path | None, list[str]]:
    """At most one file among ``key=value`` overrides, in any order."""
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


def _out(parser: Parser, default: str) -> None:
    parser.add_argument("--out", type=Path, metavar="DIR", help=f"folder that is written (default {default})")


def _device(parser: Parser) -> None:
    parser.add_argument("--device", type=device, default="auto", help="auto (default), cpu, mps, cuda or cuda:N")


def _dry_run(parser: Parser) -> None:
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="print time, memory, disk and the largest setting that fits, from a few measured steps, and stop",
    )


def _engine(parser: Parser, what: str, threads: bool = True) -> None:
    text = f"who does it: process (default), this one; ray, many workers, {what} a task (docs/scale.md)"
    parser.add_argument("--engine", choices=("process", "ray"), default="process", help=text)
    parser.add_argument("--workers", type=count, metavar="N", help="that Ray starts here (default: as many as fit)")
    parser.add_argument("--ray-address", default="", metavar="HOST:PORT", help="a Ray cluster (default $RAY_ADDRESS)")
    if threads:
        parser.add_argument(
            "--threads", type=count, metavar="N", help="of a process on a CPU (default: all; of Ray, 1)"
        )


def _chosen_engine(args: argparse.Namespace) -> Any:
    from drivesim.jobs.fanout import Engine

    return Engine(args.engine, args.workers, args.ray_address, vars(args).get("threads"))


def _fps(parser: Parser, text: str, **kwargs: Any) -> None:
    parser.add_argument("--fps", type=rate, metavar="R", help=f"{text}, exact: 30, 15/8, 7.5", **kwargs)


# --- commands ---------------------------------------------------------------------------------------------------------


def _index_options(parser: Parser) -> None:
    parser.add_argument("--recipe", type=Path, metavar="FILE", help="layout, split, labels and licence of the source")
    parser.add_argument("--labels", type=Path, metavar="PLACE", help="label file or folder: boxes by the clips' names")
    parser.add_argument(
        "--format", metavar="F", help="of the labels: bdd100k, kitti, cvat, coco, ... (default: by a look)"
    )
    parser.add_argument("--captions", type=Path, metavar="FILE", help="CSV with the columns path,caption")
    parser.add_argument("--seed", type=seed, default=0, metavar="S", help="of a rendered source (default 0)")
    parser.add_argument(
        "--join", type=Path, action="append", metavar="INDEX", help="SOURCE is an index; one of both, or of more"
    )
    _out(parser, "runs/index")


def _index(args: argparse.Namespace) -> None:
    from drivesim.jobs import index

    (source,) = _paths(args, "SOURCE")
    if args.join:
        for name in ("recipe", "labels", "format", "captions"):
            if getattr(args, name) is not None:
                raise Mistake("belongs to what is not indexed yet", where=f"--{name}", mend="leave it or --join out")
        index.join([source, *args.join], args.out or Path("runs/index"))
        return
    index.run(source, args.out or Path("runs/index"), args.recipe, args.seed, args.labels, args.format, args.captions)


def _encode_options(parser: Parser) -> None:
    parser.add_argument(
        "--weights", type=Path, required=True, metavar="DIR", help="folder with autoencoder.safetensors"
    )
    _fps(parser, "frame rate of the latents (default 15/8, that of key-frames)", default=Fraction(15, 8))
    parser.add_argument("--size", type=size, required=True, metavar="HxW", help="height and width in pixels")
    parser.add_argument(
        "--phases", type=count, default=1, metavar="N", help="sequences per clip, evenly set off (default 1)"
    )
    parser.add_argument("--precision", choices=("32", "bf16"), default="32", help="of the encoder (default 32)")
    parser.add_argument("--batch", type=count, default=16, metavar="N", help="frames at a time (default 16)")
    parser.add_argument(
        "--resume", action="store_true", help="go on with what an encoding that was stopped left in --out"
    )
    _engine(parser, "a shard of the cache")
    _dry_run(parser)
    _out(parser, "runs/latents")
    _device(parser)


def _encode(args: argparse.Namespace) -> None:
    from drivesim.jobs import encode

    (index,) = _paths(args, "INDEX")
    out, device = args.out or Path("runs/latents"), _chosen(args.device)
    encode.run(
        index,
        args.weights,
        out,
        args.fps,
        args.size,
        device,
        phases=args.phases,
        precision=args.precision,
        batch=args.batch,
        resume=args.resume,
        dry_run=args.dry_run,
        engine=_chosen_engine(args),
    )


def _train_options(parser: Parser) -> None:
    parser.add_argument("--subject", metavar="DIR", help="of image: pictures of a subject to learn (with backbone=W)")
    parser.add_argument("--prompt", metavar="P", help="what they show, with a rare word for the subject")
    parser.add_argument("--class-prompt", metavar="P", help="the same without that word")
    parser.add_argument("--seed", type=seed, metavar="S", help="overrides the configuration's")
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint in --out")
    parser.add_argument("--print-config", action="store_true", help="print every value that results, and stop")
    parser.add_argument("--devices", type=count, default=1, metavar="N", help="processes, a device each (default 1)")
    _dry_run(parser)
    _out(parser, "runs/STAGE")
    _device(parser)


def _train(args: argparse.Namespace) -> None:
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # before torch: DDP's advice that no user can act on
    if not args.words:
        raise Mistake("STAGE is missing", mend="for example: drivesim train autoencoder configs/tiny/autoencoder.yaml")
    stage, (file, overrides) = args.words[0], _file_and_overrides(args.words[1:], "CONFIG")
    told = {"pictures": args.subject, "prompt": args.prompt, "class_prompt": args.class_prompt}
    told = {key: value for key, value in told.items() if value is not None}
    if told and stage != "image":
        raise Mistake(f"a subject is learned by 'train image', not by 'train {stage}'", where="train")
    overrides += [f"subject.{key}={json.dumps(value, ensure_ascii=False)}" for key, value in told.items()]
    from drivesim.jobs import train

    out = args.out or Path("runs") / stage
    device = _chosen(args.device)
    more = args.resume, args.print_config, args.dry_run, args.devices
    train.run(stage, file, overrides, out, args.seed, device, *more)


def _generate_options(parser: Parser) -> None:
    parser.add_argument("--weights", type=Path, required=True, metavar="DIR", help="folder of STAGE.safetensors files")
    parser.add_argument(
        "--opening", metavar="CLIP[@SECOND]", help="start from a real clip instead of a generated frame"
    )
    parser.add_argument("--keep-opening", action="store_true", help="put the clip's given frames in front")
    parser.add_argument("--prompt", metavar="P", help="what is shown, in words, for weights that are told words")
    parser.add_argument("--temporal-prompt", metavar="P", help="what the temporal layers are told instead")
    parser.add_argument(
        "--backbone", type=Path, metavar="DIR", help="another folder's image model, autoencoder and text encoder"
    )
    parser.add_argument("--temporal", metavar="FILE", help="other temporal layers of the key-frames, or off for none")
    parser.add_argument("--minutes", type=minutes, metavar="M", help="length of the video")
    parser.add_argument("--seed", type=seed, action="append", metavar="S", help="repeat it for several futures")
    parser.add_argument("--size", type=size, metavar="HxW", help="height and width (default: the largest made)")
    _fps(parser, "frame rate of the video (default: the highest that models make)")
    parser.add_argument(
        "--export", metavar="F[,F]", help="label formats of the boxes: all (default), none, or some: bdd100k,coco"
    )
    parser.add_argument("--from", dest="parent", type=Path, metavar="RUN", help="another future of a run, from --at on")
    parser.add_argument("--at", type=seconds, metavar="SECOND", help="where a branch parts from its run")
    parser.add_argument("--edit", type=Path, metavar="FILE", help="what the branch changes: boxes, edits, labels, ...")
    parser.add_argument("--keep", action="store_true", help="the branch changes nothing but where boxes change")
    parser.add_argument("--resume", action="store_true", help="go on where an interrupted run in --out stopped")
    parser.add_argument("--precision", choices=("32", "bf16"), default="bf16", help="of the networks (default bf16)")
    parser.add_argument(
        "--compile", action="store_true", help="compile the denoisers: minutes the first time, one after"
    )
    _engine(parser, "a scenario and seed")
    _dry_run(parser)
    _out(parser, "runs/rollout")
    _device(parser)


def _generate(args: argparse.Namespace) -> None:
    scenario, settings = _file_and_overrides(args.words, "SCENARIO")
    from drivesim.jobs import generate

    generate.run(
        scenario=scenario,
        weights=args.weights,
        out=args.out or Path("runs/rollout"),
        opening=args.opening,
        minutes=args.minutes,
        seeds=args.seed or [],
        size=args.size,
        fps=args.fps,
        device=_chosen(args.device),
        resume=args.resume,
        settings=settings,
        precision=args.precision,
        compiled=args.compile,
        keep_opening=args.keep_opening,
        dry_run=args.dry_run,
        export=args.export,
        parent=args.parent,
        at=args.at,
        edit=args.edit,
        keep=args.keep,
        prompt=args.prompt,
        temporal_prompt=args.temporal_prompt,
        backbone=args.backbone,
        temporal=args.temporal,
        engine=_chosen_engine(args),
    )


def _evaluate_options(parser: Parser) -> None:
    parser.add_argument("--protocol", metavar="NAME", help="preset: builtin-v1 (default), paper, styleganv, tf1, ...")
    parser.add_argument("--extractor", type=Path, metavar="FILE", help="weights of I3D or VideoMAE, as published")
    parser.add_argument("--inception", type=Path, metavar="FILE", help="weights of FID's Inception, as published")
    _fps(parser, "take clips at this rate instead of the protocol's")
    parser.add_argument("--clips", type=count, metavar="N", help="most clips of a side, instead of the protocol's")
    parser.add_argument("--no-controls", action="store_true", help="leave out what frozen and shuffled clips score")
    parser.add_argument("--pairs", action="store_true", help="also PSNR, SSIM, LPIPS of videos with the same name")
    parser.add_argument("--boxes", action="store_true", help="also whether traffic is where the boxes say")
    parser.add_argument("--detector", metavar="NAME", help="for --boxes: detector-v1 (default), or FILE.onnx")
    parser.add_argument("--clipsim", type=Path, metavar="DIR", help="also how well video goes with its words, by CLIP")
    parser.add_argument("--window", type=seconds, metavar="S", help="seconds of a stretch of the curve over time")
    parser.add_argument("--precision", choices=("32", "bf16"), default="32", help="of I3D (default 32)")
    parser.add_argument("--against", type=Path, metavar="FILE", help="a scores.json from before, to compare with")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the scores with their receipts here")
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="scores.json, scores.md, report.html (default: GENERATED if a run)"
    )
    parser.add_argument("--cache", type=Path, metavar="DIR", help="features by content (default ~/.cache/drivesim)")
    parser.add_argument("--devices", type=count, default=1, metavar="N", help="processes, a device each (default 1)")
    _engine(parser, "a few videos", threads=False)
    _dry_run(parser)
    _device(parser)


def _evaluate(args: argparse.Namespace) -> None:
    real, generated = _paths(args, "REAL", "GENERATED")
    from drivesim.jobs import evaluate

    settings = evaluate.Settings(
        protocol=args.protocol,
        extractor=args.extractor,
        inception=args.inception,
        fps=args.fps,
        clips=args.clips,
        controls=not args.no_controls,
        window=args.window,
        precision=args.precision,
        cache=args.cache,
        pairs=args.pairs,
        boxes=args.boxes,
        detector=args.detector,
        clipsim=args.clipsim,
    )
    device = _chosen(args.device)
    evaluate.run(
        real, generated, args.out, args.json, settings, device, args.devices, args.against, args.dry_run,
        _chosen_engine(args),
    )  # fmt: skip


def _compare_options(parser: Parser) -> None:
    parser.add_argument("--pairs", type=count, metavar="N", help="most pairs of clips (default 100)")
    parser.add_argument("--seconds", type=seconds, metavar="S", help="length of each clip (default 4)")
    parser.add_argument("--size", type=size, metavar="HxW", help="of all clips (default: the smallest of the videos')")
    _fps(parser, "of all clips (default: the lowest of the videos')")
    parser.add_argument("--seed", type=seed, metavar="S", help="of the pairs, their places and sides (default 0)")
    parser.add_argument(
        "--conditioned",
        action="store_true",
        default=None,
        help="both sides go on from the same openings: pair by name, from second 0",
    )
    parser.add_argument("--tally", type=Path, metavar="DIR", help="count the votes on the study in DIR (default DIR's)")
    _out(parser, "runs/compare")


def _compare(args: argparse.Namespace) -> None:
    if args.tally is not None:
        making = ("pairs", "seconds", "size", "fps", "seed", "conditioned", "out")
        given = [f"--{name}" for name in making if getattr(args, name) is not None]
        if given:
            raise Mistake(f"{given[0]} has no meaning with --tally", mend="expected: --tally DIR [VOTES ...]")
        from drivesim.jobs import tally

        tally.run(args.tally, [Path(word) for word in args.words])
        return
    a, b = _paths(args, "A", "B")
    from drivesim.jobs import compare

    compare.run(
        a,
        b,
        args.out or Path("runs/compare"),
        pairs=args.pairs or 100,
        seconds=args.seconds or Fraction(4),
        size=args.size,
        fps=args.fps,
        seed=args.seed or 0,
        conditioned=bool(args.conditioned),
    )


def _report(args: argparse.Namespace) -> None:
    (run_folder,) = _paths(args, "RUN")
    from drivesim.jobs import report

    print(report.run(run_folder))


def _demo_options(parser: Parser) -> None:
    parser.add_argument("--seed", type=seed, default=0, metavar="S", help="of the world, the training and the rollout")
    parser.add_argument("--train", action="store_true", help="train the models first, small: ten minutes on two cores")
    _out(parser, "runs/demo")
    _device(parser)


def _demo(args: argparse.Namespace) -> None:
    _paths(args)
    from drivesim.jobs import demo

    print(demo.run(args.out or Path("runs/demo"), args.seed, _chosen(args.device), train=args.train))


def _doctor_options(parser: Parser) -> None:
    parser.add_argument("--weights", type=Path, metavar="DIR", help="also check the weights in this folder")


def _doctor(args: argparse.Namespace) -> None:
    _paths(args)
    from drivesim.jobs import doctor

    doctor.run(args.weights)


def _scenario_options(parser: Parser) -> None:
    parser.add_argument(
        "--out", type=Path, metavar="PLACE", help="video (preview.mp4), folder of labels (labels), or schema"
    )
    parser.add_argument("--format", metavar="F", help="convert: of the labels that are written")


def _scenario(args: argparse.Namespace) -> None:
    action, *file = _paths(args, "ACTION", *(["FILE"] if args.words[:1] != ["schema"] else []))
    from drivesim.jobs import scenario

    scenario.run(str(action), file[0] if file else None, args.out, args.format)


def _weights_options(parser: Parser) -> None:
    parser.add_argument("--out", type=Path, metavar="PLACE", help="convert: the file, or folder, that is written")


def _weights(args: argparse.Namespace) -> None:
    action, path = _paths(args, "ACTION", "PATH")
    from drivesim.jobs import weights

    weights.run(str(action), path, args.out)


COMMANDS = {
    "index": Command(
        "SOURCE [--recipe FILE] [--labels PLACE] [--format F] [--captions FILE] [--join INDEX] [--out DIR] [--seed S]",
        "list the clips of a folder of videos or numbered images, with day or night measured",
        "drivesim index ~/dashcam --out runs/index",
        _index_options,
        _index,
    ),
    "encode": Command(
        "INDEX --weights DIR --size HxW [--fps R] [--phases N] [--batch N] [--out DIR] [--resume] [--engine E] ...",
        "encode the clips of an index once, for all trainings after the autoencoder",
        "drivesim encode runs/index --weights runs/autoencoder/weights --size 128x256 --fps 15/8 --out runs/latents",
        _encode_options,
        _encode,
    ),
    "train": Command(
        "STAGE [CONFIG] [key.sub=value ...] [--subject DIR --prompt P --class-prompt P] [--out DIR] [--resume] ...",
        "train one stage: autoencoder, image, keyframes, interpolation, decoder, upsampler or upsampler-temporal",
        "drivesim train autoencoder configs/tiny/autoencoder.yaml index=runs/world loop.lr=1e-3 --out runs/autoencoder",
        _train_options,
        _train,
    ),
    "generate": Command(
        "[SCENARIO] --weights DIR [--opening CLIP[@SECOND]] [--minutes M] [--seed S ...] [key.sub=value ...]",
        "roll out minutes of video from a generated frame or from the opening of a real clip",
        "drivesim generate --weights runs/weights --opening drive.mp4@12.5 --minutes 2 --seed 1 --seed 2",
        _generate_options,
        _generate,
    ),
    "evaluate": Command(
        "REAL GENERATED [--protocol NAME] [--extractor FILE] [--boxes] [--fps R] [--json FILE] [--out DIR] ...",
        "score generated video against real video, with a receipt",
        "drivesim evaluate ~/held-back runs/two --json score.json",
        _evaluate_options,
        _evaluate,
    ),
    "compare": Command(
        "A B [--pairs N] [--seconds S] [--size HxW] [--fps R] [--out DIR] ... | --tally DIR [VOTES ...]",
        "a blind user study of two sides as a page, and the tally of its votes",
        "drivesim compare runs/ours runs/theirs --out runs/study",
        _compare_options,
        _compare,
    ),
    "report": Command(
        "RUN",
        "write the page of a run: video, contact sheets, curves, scores",
        "drivesim report runs/two",
        lambda parser: None,
        _report,
    ),
    "scenario": Command(
        "check | preview | convert FILE [--format F] [--out PLACE]  or  schema [--out FILE]",
        "check a scenario file; draw its boxes over the clip, with no model; write them as labels",
        "drivesim scenario preview cut-in.yaml --out cut-in.mp4",
        _scenario_options,
        _scenario,
    ),
    "weights": Command(
        "check FILE|FOLDER  or  convert FILE --out FILE.safetensors  or  convert PIPELINE --out DIR",
        "say what weights are and whether they fit; make safetensors of a pickle, weights of a public pipeline",
        "drivesim weights check stable-diffusion-2-1/unet",
        _weights_options,
        _weights,
    ),
    "doctor": Command(
        "[--weights DIR]",
        "print versions, devices, codecs and weights, ready to paste",
        "drivesim doctor",
        _doctor_options,
        _doctor,
    ),
    "demo": Command(
        "[--out DIR] [--seed S] [--device D] [--train]",
        "everything once, small, on a rendered world: roll out, score, report; with --train its own models first",
        "drivesim demo --out runs/demo",
        _demo_options,
        _demo,
    ),
}


if __name__ == "__main__":
    sys.exit(main())
