"""The commands of ``drivesim``: of each its options, and the job that it calls.

Nothing heavy is imported before a job is chosen.
"""

import argparse
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from drivesim.cli.arguments import (
    Parser,
    chosen_device,
    chosen_engine,
    count,
    device_option,
    dry_run_option,
    engine_options,
    file_and_overrides,
    fps_option,
    minutes,
    out_option,
    paths,
    seconds,
    seed,
    size,
)
from drivesim.errors import Mistake


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
    out_option(parser, "runs/index")


def _index(args: argparse.Namespace) -> None:
    from drivesim.jobs import index

    (source,) = paths(args, "SOURCE")
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
    fps_option(parser, "frame rate of the latents (default 15/8, that of key-frames)", default=Fraction(15, 8))
    parser.add_argument("--size", type=size, required=True, metavar="HxW", help="height and width in pixels")
    parser.add_argument(
        "--phases", type=count, default=1, metavar="N", help="sequences per clip, evenly set off (default 1)"
    )
    parser.add_argument("--precision", choices=("32", "bf16"), default="32", help="of the encoder (default 32)")
    parser.add_argument("--batch", type=count, default=16, metavar="N", help="frames at a time (default 16)")
    parser.add_argument(
        "--resume", action="store_true", help="go on with what an encoding that was stopped left in --out"
    )
    engine_options(parser, "a shard of the cache")
    dry_run_option(parser)
    out_option(parser, "runs/latents")
    device_option(parser)


def _encode(args: argparse.Namespace) -> None:
    from drivesim.jobs import encode

    (index,) = paths(args, "INDEX")
    out, device = args.out or Path("runs/latents"), chosen_device(args.device)
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
        engine=chosen_engine(args),
    )


def _train_options(parser: Parser) -> None:
    parser.add_argument("--subject", metavar="DIR", help="of image: pictures of a subject to learn (with backbone=W)")
    parser.add_argument("--prompt", metavar="P", help="what they show, with a rare word for the subject")
    parser.add_argument("--class-prompt", metavar="P", help="the same without that word")
    parser.add_argument("--seed", type=seed, metavar="S", help="overrides the configuration's")
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint in --out")
    parser.add_argument("--print-config", action="store_true", help="print every value that results, and stop")
    parser.add_argument("--devices", type=count, default=1, metavar="N", help="processes, a device each (default 1)")
    dry_run_option(parser)
    out_option(parser, "runs/STAGE")
    device_option(parser)


def _train(args: argparse.Namespace) -> None:
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # before torch: DDP's advice that no user can act on
    if not args.words:
        raise Mistake("STAGE is missing", mend="for example: drivesim train autoencoder configs/tiny/autoencoder.yaml")
    stage, (file, overrides) = args.words[0], file_and_overrides(args.words[1:], "CONFIG")
    told = {"pictures": args.subject, "prompt": args.prompt, "class_prompt": args.class_prompt}
    told = {key: value for key, value in told.items() if value is not None}
    if told and stage != "image":
        raise Mistake(f"a subject is learned by 'train image', not by 'train {stage}'", where="train")
    overrides += [f"subject.{key}={json.dumps(value, ensure_ascii=False)}" for key, value in told.items()]
    from drivesim.jobs import train

    out = args.out or Path("runs") / stage
    device = chosen_device(args.device)
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
    fps_option(parser, "frame rate of the video (default: the highest that models make)")
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
    engine_options(parser, "a scenario and seed")
    dry_run_option(parser)
    out_option(parser, "runs/rollout")
    device_option(parser)


def _generate(args: argparse.Namespace) -> None:
    scenario, settings = file_and_overrides(args.words, "SCENARIO")
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
        device=chosen_device(args.device),
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
        engine=chosen_engine(args),
    )


def _evaluate_options(parser: Parser) -> None:
    parser.add_argument("--protocol", metavar="NAME", help="preset: builtin-v1 (default), paper, styleganv, tf1, ...")
    parser.add_argument("--extractor", type=Path, metavar="FILE", help="weights of I3D or VideoMAE, as published")
    parser.add_argument("--inception", type=Path, metavar="FILE", help="weights of FID's Inception, as published")
    fps_option(parser, "take clips at this rate instead of the protocol's")
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
    engine_options(parser, "a few videos", threads=False)
    dry_run_option(parser)
    device_option(parser)


def _evaluate(args: argparse.Namespace) -> None:
    real, generated = paths(args, "REAL", "GENERATED")
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
    device = chosen_device(args.device)
    evaluate.run(
        real, generated, args.out, args.json, settings, device, args.devices, args.against, args.dry_run,
        chosen_engine(args),
    )  # fmt: skip


def _compare_options(parser: Parser) -> None:
    parser.add_argument("--pairs", type=count, metavar="N", help="most pairs of clips (default 100)")
    parser.add_argument("--seconds", type=seconds, metavar="S", help="length of each clip (default 4)")
    parser.add_argument("--size", type=size, metavar="HxW", help="of all clips (default: the smallest of the videos')")
    fps_option(parser, "of all clips (default: the lowest of the videos')")
    parser.add_argument("--seed", type=seed, metavar="S", help="of the pairs, their places and sides (default 0)")
    parser.add_argument(
        "--conditioned",
        action="store_true",
        default=None,
        help="both sides go on from the same openings: pair by name, from second 0",
    )
    parser.add_argument("--tally", type=Path, metavar="DIR", help="count the votes on the study in DIR (default DIR's)")
    out_option(parser, "runs/compare")


def _compare(args: argparse.Namespace) -> None:
    if args.tally is not None:
        making = ("pairs", "seconds", "size", "fps", "seed", "conditioned", "out")
        given = [f"--{name}" for name in making if getattr(args, name) is not None]
        if given:
            raise Mistake(f"{given[0]} has no meaning with --tally", mend="expected: --tally DIR [VOTES ...]")
        from drivesim.jobs import tally

        tally.run(args.tally, [Path(word) for word in args.words])
        return
    a, b = paths(args, "A", "B")
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
    (run_folder,) = paths(args, "RUN")
    from drivesim.jobs import report

    print(report.run(run_folder))


def _demo_options(parser: Parser) -> None:
    parser.add_argument("--seed", type=seed, default=0, metavar="S", help="of the world, the training and the rollout")
    parser.add_argument("--train", action="store_true", help="train the models first, small: ten minutes on two cores")
    out_option(parser, "runs/demo")
    device_option(parser)


def _demo(args: argparse.Namespace) -> None:
    paths(args)
    from drivesim.jobs import demo

    print(demo.run(args.out or Path("runs/demo"), args.seed, chosen_device(args.device), train=args.train))


def _doctor_options(parser: Parser) -> None:
    parser.add_argument("--weights", type=Path, metavar="DIR", help="also check the weights in this folder")


def _doctor(args: argparse.Namespace) -> None:
    paths(args)
    from drivesim.jobs import doctor

    doctor.run(args.weights)


def _scenario_options(parser: Parser) -> None:
    parser.add_argument(
        "--out", type=Path, metavar="PLACE", help="video (preview.mp4), folder of labels (labels), or schema"
    )
    parser.add_argument("--format", metavar="F", help="convert: of the labels that are written")


def _scenario(args: argparse.Namespace) -> None:
    action, *file = paths(args, "ACTION", *(["FILE"] if args.words[:1] != ["schema"] else []))
    from drivesim.jobs import scenario

    scenario.run(str(action), file[0] if file else None, args.out, args.format)


def _weights_options(parser: Parser) -> None:
    parser.add_argument("--out", type=Path, metavar="PLACE", help="convert: the file, or folder, that is written")


def _weights(args: argparse.Namespace) -> None:
    action, path = paths(args, "ACTION", "PATH")
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
