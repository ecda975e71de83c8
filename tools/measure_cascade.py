"""The cascade's models beside what they replace, on held-back clips: interpolation, temporal decoder, upsampler; seams.

    python tools/measure_cascade.py WEIGHTS INDEX [--parts interpolation decoder upsampler seams] --out FILE.md

WEIGHTS holds autoencoder, image, keyframes, interpolation, decoder, upsampler, upsampler-temporal; INDEX is
``drivesim index``'s, of which the held-back clips are taken. Every video, the real ones too, goes through the writer
once; scores are ``drivesim evaluate``'s at 30 fps. ``builtin-v1`` looks at 64x128 pixels, so the upsampler is scored on
crops of that size from the large frames: scaled down, no upsampler could be told from another.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import date
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from drivesim.data import video
from drivesim.data.index import Entry, Index
from drivesim.diffusion.lowres import reduced
from drivesim.jobs import evaluate, stack
from drivesim.randomness import generator
from drivesim.rollout import stages
from drivesim.rollout.interpolator import Interpolator
from drivesim.rollout.plan import Pieces, Window
from drivesim.rollout.sample import NoiseSource, Told
from drivesim.rollout.settings import DecodeConfig, InterpolationConfig, SamplerConfig, UpsampleConfig
from drivesim.rollout.stack import Stack
from drivesim.rollout.stages import Chunk
from drivesim.rollout.upscaler import Upscaler
from drivesim.scene import VIDEO_FPS, Labels, to_model, to_pixels

CROP, CROPS = (64, 128), 6  # builtin-v1 sees so many pixels; places a clip
GAP = 16
Videos = dict[str, dict[str, Tensor]]  # way -> clip -> T 3 H W in [-1, 1]


def held(index: Path, frames: int, most: int) -> list[Entry]:
    """Held-back clips that give ``frames`` frames at 30 fps."""
    wanted = (frames + 1) / float(VIDEO_FPS)
    fit = [e for e in Index.open(index).split("val") if e.fps >= VIDEO_FPS * video.FULL_RATE and e.seconds >= wanted]
    return fit[:most]


def real(entry: Entry, frames: int, size: tuple[int, int], skip: int = 0) -> Tensor:
    start = Fraction(skip) / VIDEO_FPS
    clip = video.read(entry.file, fps=VIDEO_FPS, start=start, frames=frames, size=size, rate=entry.rate)
    return to_model(clip.frames)


@torch.inference_mode()
def encoded(models: Stack, frames: Tensor) -> Tensor:
    return torch.cat([models.encode(part) for part in frames.split(8)]).float()


def stream(frames: Tensor) -> Iterator[Chunk]:
    """A whole clip as one window."""
    yield Chunk(Window(0, 0, 1, 0, len(frames)), frames, {}, True)


def joined(chunks: Iterator[Chunk]) -> Tensor:
    return torch.cat([chunk.frames for chunk in chunks if len(chunk.frames)])


def psnr(made: Tensor, truth: Tensor) -> float:
    return float(-10 * torch.log10(F.mse_loss(made.clamp(-1, 1), truth) / 4))


def scored(videos: Videos, folder: Path, crop: bool = False) -> dict[str, dict[str, float]]:
    """FVD and FID of every way against ``real``, by ``drivesim evaluate``."""
    for way, clips in videos.items():
        for name, frames in clips.items():
            for n, part in enumerate(crops(name, frames) if crop else [frames]):
                size = (part.shape[-2], part.shape[-1])
                with video.Writer(folder / way / f"{name}-{n}.mp4", size, VIDEO_FPS) as writer:
                    writer.write(to_pixels(part))
    found = {}
    settings = evaluate.Settings(fps=VIDEO_FPS, cache=folder / "features", controls=False)
    for way in videos:
        if way != "real":
            scores = evaluate.run(folder / "real", folder / way, out=folder / "scores" / way, settings=settings)
            found[way] = {score["metric"].partition("[")[0]: float(score["value"]) for score in scores}
    return found


def crops(name: str, frames: Tensor) -> Iterator[Tensor]:
    """The same places for every way: a function of the clip's name."""
    draw, (h, w) = generator(0, "crops", name), CROP
    for _ in range(CROPS):
        top, left = (int(draw.integers(0, side - part + 1)) for side, part in zip(frames.shape[-2:], CROP, strict=True))
        yield frames[..., top : top + h, left : left + w]


def interpolation(models: Stack, entries: list[Entry], keys: int, steps: int, folder: Path) -> list[str]:
    """Key-frames of real video, and what stands between them by each way, all through the same image decoder."""
    noise, settings = NoiseSource(0, "measure"), InterpolationConfig(sampler=SamplerConfig(steps=steps))
    videos: Videos = {way: {} for way in ("real", "repeated", "blended", "interpolated")}
    wrong: dict[str, list[float]] = {way: [] for way in videos if way != "real"}
    for entry in entries:
        truth = real(entry, GAP * (keys - 1) + 1, models.size)
        latents = encoded(models, truth)
        target, own = joined(stages.decode(stream(latents), models.decode)), replace(noise, scenario=entry.clip_id)
        chunks = stream(latents[::GAP])
        for number in (1, 2):
            told = Told(Labels(entry.night, entry.cars))
            chunks = stages.interpolate(chunks, Interpolator(models, settings, own, told, number))
        made = {"interpolated": joined(stages.decode(chunks, models.decode))}
        decoded = joined(stages.decode(stream(latents[::GAP]), models.decode))
        for way, mode in (("repeated", "repeat"), ("blended", "blend")):
            made[way] = joined(stages.fill(stream(decoded), GAP, mode))  # type: ignore[arg-type]
        videos["real"][entry.clip_id[:12]] = truth
        between = [n for n in range(len(truth)) if n % GAP]
        for way, frames in made.items():
            videos[way][entry.clip_id[:12]] = frames
            wrong[way].append(psnr(frames[between], target[between]))
    scores = scored(videos, folder)
    rows = ["| between key-frames at 15/8 fps | FVD | FID | PSNR of the frames between |", "|---|---|---|---|"]
    for way, values in wrong.items():
        rows.append(f"| {way} | {scores[way]['fvd']:.2f} | {scores[way]['fid']:.2f} | {np.mean(values):.2f} dB |")
    rows += [
        "",
        f"{steps} DDIM steps a pass. All are decoded by the image decoder; PSNR is against real frames that are, too.",
    ]
    return ["## Interpolation 15/8 to 30 fps", "", _of(len(entries), GAP * (keys - 1) + 1, models.size), "", *rows]


def decoder(models: Stack, entries: list[Entry], frames: int, folder: Path) -> list[str]:
    """Reconstructions: every frame by itself, and with the temporal layers."""
    assert models.temporal_decoder is not None
    own = DecodeConfig()
    pieces = Pieces(own.frames, own.overlap)
    videos: Videos = {way: {} for way in ("real", "image decoder", "temporal decoder")}
    rows: dict[str, list[tuple[float, float]]] = {way: [] for way in videos if way != "real"}
    spent = dict.fromkeys(rows, 0.0)
    differ, seams = [], []
    for entry in entries:
        truth = real(entry, frames, models.size)
        latents = encoded(models, truth)
        chunks = {
            "image decoder": stages.decode(stream(latents), models.decode),
            "temporal decoder": stages.decode_pieces(stream(latents), models.temporal_decoder.decode, pieces),
        }
        made = {}
        for way, frames_ in chunks.items():
            begin = time.process_time()
            made[way] = joined(frames_)
            spent[way] += time.process_time() - begin
        with torch.inference_mode():
            whole = models.temporal_decoder.decode(latents[None])[0].float()
        chunked = made["temporal decoder"]
        differ.append(float((chunked.clamp(-1, 1) - whole.clamp(-1, 1)).abs().mean()) * 127.5)
        joints = [n for n in range(1, frames) if n % pieces.stride == 0]
        seams.append(ratio(changes(chunked), joints) / ratio(changes(whole), joints))
        videos["real"][entry.clip_id[:12]] = truth
        for way, video_ in made.items():
            videos[way][entry.clip_id[:12]] = video_
            flicker = float((video_ - truth).diff(dim=0).abs().mean()) * 127.5
            rows[way].append((psnr(video_, truth), flicker))
    scores = scored(videos, folder)
    table = [
        "| decoded | FVD | FID | PSNR | flicker, levels of 255 | ms of one core a frame |",
        "|---|---|---|---|---|---|",
    ]
    for way, values in rows.items():
        (decibels, flicker), score = np.mean(values, axis=0), scores[way]
        each = 1e3 * spent[way] / len(entries) / frames
        table.append(
            f"| {way} | {score['fvd']:.2f} | {score['fid']:.2f} | {decibels:.2f} dB | {flicker:.2f} | {each:.1f} |"
        )
    words = (
        f"Flicker is how much the error changes from frame to frame. In pieces of {pieces.length} that share "
        f"{pieces.overlap} frames instead of whole: {np.mean(differ):.3f} levels of 255 apart on average (goal 1); "
        f"changes from frame to frame where a piece begins, over those elsewhere, and over the same of the whole: "
        f"{np.mean(seams):.3f} (goal 1.1)."
    )
    return ["## Decoder", "", _of(len(entries), frames, models.size), "", *table, "", words]


def upsampler(models: Stack, alone: Stack, entries: list[Entry], frames: int, steps: int, folder: Path) -> list[str]:
    """Real low-resolution frames made large: bicubic, every frame by itself, windows of neighbouring frames."""
    assert models.upsampler is not None and models.upsampled is not None
    ways = _ways(models, alone, steps)
    videos: Videos = {way: {} for way in ("real", *ways)}
    rows: dict[str, list[tuple[float, float]]] = {way: [] for way in ways}
    spent = dict.fromkeys(ways, 0.0)
    for entry in entries:
        truth = real(entry, frames, models.upsampled)
        low = reduced(truth[None], models.upsampler.factor)[0]
        videos["real"][entry.clip_id[:12]] = truth
        for way, enlarge in ways.items():
            begin = time.perf_counter()
            made = enlarge(low, entry)
            spent[way] += time.perf_counter() - begin
            videos[way][entry.clip_id[:12]] = made
            flicker = float((made.clamp(-1, 1) - truth).diff(dim=0).abs().mean()) * 127.5
            rows[way].append((psnr(made, truth), flicker))
    scores = scored(videos, folder, crop=True)
    table = [
        f"| {models.size[0]}x{models.size[1]} made large | FVD | FID | PSNR | flicker | seconds a frame |",
        "|---|---|---|---|---|---|",
    ]
    for way, values in rows.items():
        mean, each = np.mean(values, axis=0), spent[way] / len(entries) / frames
        table.append(
            f"| {way} | {scores[way]['fvd']:.2f} | {scores[way]['fid']:.2f} | {mean[0]:.2f} dB | {mean[1]:.2f} | "
            f"{each:.2f} |"
        )
    words = f"Scored on {CROPS} crops of {CROP[0]}x{CROP[1]} from every clip; {steps} DDIM steps, noise level {LOW}."
    return ["## Upsampler", "", _of(len(entries), frames, models.upsampled), "", *table, "", words]


LOW = 0  # noise of the upsampler's input here: what it is shown is real, not made


def _ways(models: Stack, alone: Stack, steps: int) -> dict[str, Callable[[Tensor, Entry], Tensor]]:
    assert models.upsampler is not None
    config = UpsampleConfig(sampler=SamplerConfig(steps=steps), noise=LOW)
    factor = models.upsampler.factor

    def bicubic(low: Tensor, entry: Entry) -> Tensor:
        return F.interpolate(low, scale_factor=factor, mode="bicubic", align_corners=False).clamp(-1, 1)

    def diffused(models: Stack, overlap: int) -> Callable[[Tensor, Entry], Tensor]:
        def enlarge(low: Tensor, entry: Entry) -> Tensor:
            assert models.upsampler is not None
            noise, told = NoiseSource(0, entry.clip_id), Told(Labels(entry.night, entry.cars))
            upscale = Upscaler(models, config, noise, told, GAP)
            return joined(stages.upsample(stream(low), upscale, Pieces(models.upsampler.frames, overlap)))

        return enlarge

    return {
        "bicubic": bicubic,
        "every frame by itself": diffused(alone, 0),
        "temporally aligned": diffused(models, min(1, models.upsampler.frames - 1)),
    }


def without(weights: Path, *stages_: str) -> Stack:
    """The models of ``weights`` but for some."""
    with tempfile.TemporaryDirectory() as folder:
        for file in weights.resolve().glob("*.safetensors"):
            if file.stem not in stages_:
                (Path(folder) / file.name).symlink_to(file)
        return stack.load(Path(folder))


def seams(models: Stack, entries: list[Entry], steps: int, overlap: int) -> list[str]:
    """Where windows of the upsampler meet in time, and where its tiles meet in space."""
    assert models.upsampler is not None and models.upsampled is not None
    frames = models.upsampler.frames
    overlap = min(overlap, frames - 1)
    pieces, found = Pieces(frames, overlap), {"windows": list[float](), "tiles": list[float]()}
    height, width = models.upsampled
    tile = (height * 5 // 8, width * 5 // 8)
    for entry in entries:
        truth = real(entry, 4 * pieces.stride + overlap, models.upsampled)
        low = reduced(truth[None], models.upsampler.factor)[0]
        noise, told = NoiseSource(0, entry.clip_id), Told(Labels(entry.night, entry.cars))
        config = UpsampleConfig(sampler=SamplerConfig(steps=steps), noise=LOW)
        made = joined(stages.upsample(stream(low), Upscaler(models, config, noise, told, GAP), pieces))
        found["windows"].append(max(across(made, truth, pieces, place) for place in range(overlap + 1)))
        tiled = replace(config, tile=tile, tile_overlap=height // 8)
        cut = Upscaler(models, tiled, noise, told, GAP)(0, low[:frames], low.new_zeros(0, 3, 1, 1))
        whole = made[:frames]
        rows, columns = [height - tile[0], tile[0]], [width - tile[1], tile[1]]
        for dim, lines in ((-2, rows), (-1, columns)):
            found["tiles"].append(ratio(steps_along(cut, dim), lines) / ratio(steps_along(whole, dim), lines))
    table = ["| seam | ratio | goal |", "|---|---|---|"]
    table.append(f"| windows of {frames} frames that share {overlap} | {np.mean(found['windows']):.3f} | 1.1 |")
    shared = height // 8
    table.append(f"| tiles of {tile[0]}x{tile[1]} that share {shared} | {np.mean(found['tiles']):.3f} | 1.05 |")
    words = (
        "Mean change across a seam over that elsewhere, divided by the same ratio where there is no seam (real frames "
        "for windows, the whole frame for tiles), since what happens to lie there is not the seam's doing. Of windows, "
        "the change that is largest between the last frame of one and the first of the next that is its own."
    )
    return ["## Seams of the upsampler", "", words, "", *table]


def across(made: Tensor, truth: Tensor, pieces: Pieces, place: int) -> float:
    """How much the change to frame ``place`` of every window but the first stands out, beside real video."""
    joints = [n + place for n in range(pieces.stride, len(made), pieces.stride) if n + place < len(made)]
    return ratio(changes(made), joints) / ratio(changes(truth), joints)


def changes(frames: Tensor) -> Tensor:
    """Mean change to every frame from the one before; the first has none."""
    return F.pad(frames.clamp(-1, 1).diff(dim=0).abs().mean(dim=(1, 2, 3)), (1, 0))


def steps_along(frames: Tensor, dim: int) -> Tensor:
    """Mean step to every row (or column) from the one before it."""
    along = frames.clamp(-1, 1).diff(dim=dim).abs()
    return F.pad(along.movedim(dim, 0).flatten(1).mean(dim=1), (1, 0))


def ratio(values: Tensor, joints: list[int]) -> float:
    others = [n for n in range(1, len(values)) if n not in joints]
    return float(values[joints].mean() / values[others].mean())


def _of(clips: int, frames: int, size: tuple[int, int]) -> str:
    return f"{clips} held-back clips of {frames} frames at {size[0]}x{size[1]}, 30 fps."


def main() -> None:
    parts = ("interpolation", "decoder", "upsampler", "seams")
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("weights", type=Path)
    parser.add_argument("index", type=Path)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--parts", nargs="+", choices=parts, default=parts)
    parser.add_argument("--clips", type=int, default=16)
    parser.add_argument("--keys", type=int, default=6, help="key-frames a clip, for interpolation")
    parser.add_argument("--frames", type=int, default=32, help="frames a clip, for decoder and upsampler")
    parser.add_argument("--steps", type=int, default=2, help="DDIM steps of the upsampler")
    parser.add_argument("--overlap", type=int, default=2, help="frames that windows of the upsampler share, for seams")
    parser.add_argument("--between", type=int, default=2, help="DDIM steps of the interpolation model")
    parser.add_argument("--keep", type=Path, help="leave the videos here, to look at")
    args = parser.parse_args()
    models = stack.load(args.weights)
    said = [f"{date.today()}, torch {torch.__version__}, {torch.get_num_threads()} threads.", ""]
    with tempfile.TemporaryDirectory() as folder:
        root = args.keep or Path(folder)
        for part in args.parts:
            begin = time.monotonic()
            if part == "interpolation":
                clips = held(args.index, GAP * (args.keys - 1) + 1, args.clips)
                said += interpolation(models, clips, args.keys, args.between, root / part)
            elif part == "decoder":
                said += decoder(models, held(args.index, args.frames, args.clips), args.frames, root / part)
            elif part == "upsampler":
                alone, clips = without(args.weights, "upsampler-temporal"), held(args.index, args.frames, args.clips)
                said += upsampler(models, alone, clips, args.frames, args.steps, root / part)
            else:
                said += seams(models, held(args.index, args.frames, args.clips)[:4], args.steps, args.overlap)
            said += [""]
            print("\n".join(said[-20:]), f"\n{part}: {time.monotonic() - begin:.0f} s", flush=True)
    if args.out:
        args.out.write_text("\n".join(said))


if __name__ == "__main__":
    main()
