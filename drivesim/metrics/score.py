"""From the vectors of both sides to scores: FVD, KVD and FID, each with floor, controls, intervals and receipt."""

from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor

import drivesim
from drivesim.errors import Mistake
from drivesim.metrics import controls, drift, jackknife, kernel
from drivesim.metrics.features import Extractor
from drivesim.metrics.frechet import distance_of, frechet_distance
from drivesim.metrics.measure import CONTROLS, Cache, Ruler, span_seconds
from drivesim.metrics.receipt import Receipt, Score, clips_hash, warnings_for
from drivesim.metrics.survey import Side

RESIZES = {
    "tf1": "TensorFlow 1's bilinear to 224x224, aspect ignored, no half-pixel offset",
    "bilinear": "half-pixel bilinear to 224x224, aspect ignored, no antialiasing",
    "short-side-crop": "short side to 224, half-pixel bilinear, no antialiasing, centre crop",
    "cdfvd": "short side to 256, antialiased, centre crop, fractions cut off, half-pixel bilinear to 224",
    "": "centre crop to the aspect, area when smaller, bilinear when larger",
}


@dataclass(frozen=True, eq=False)
class Measured:
    """The vectors of a side, a row a clip, sorted by (clip, start).

    Args:
        names: hash and start in seconds of every clip; ``drives`` and ``files`` of every clip.
        rows: ``features`` and the controls ``N d``, ``frames`` ``N 4 d'``, ``statistics`` ``N 6``.
        span: seconds of a clip.
    """

    names: list[tuple[str, Fraction]]
    drives: list[str]
    files: list[str]
    rows: dict[str, Tensor]
    span: Fraction

    def by_drive(self, word: str) -> Tensor:
        """The rows of ``word``, clips of one drive together."""
        order = sorted(range(len(self.names)), key=lambda n: (self.drives[n], *self.names[n]))
        return self.rows[word][order]


def collect(side: Side, ruler: Ruler, cache: Cache) -> Measured:
    """What the cache has of a side; every clip of it must be there.

    Raises:
        Mistake: fewer than two clips.
    """
    names, drives, files = [], [], []
    parts: dict[str, list[Tensor]] = {word: [] for word in ruler.words}
    for wanted in side.videos:
        vectors, length = cache.load(wanted.clip_id), span_seconds(wanted.info, ruler.protocol)
        for clip in wanted.clips:
            names.append((wanted.clip_id, clip * length))
            drives.append(wanted.source.drive)
            files.append(str(wanted.source.file))
            for word, row in vectors.of(clip).items():
                if word in parts:
                    parts[word].append(row)
    rows = {word: torch.stack(found) for word, found in parts.items() if found}
    return Measured(names, drives, files, rows, ruler.protocol.span / side.fps if side.fps else Fraction(0))


def too_few(side: Side, ruler: Ruler, videos: int, where: object) -> None:
    """Raises:
    Mistake: a side gives fewer than two clips; it says how many were left out and why.
    """
    if side.clips > 1:
        return
    protocol = ruler.protocol
    gave = f"{videos} video{'s' * (videos != 1)} gave {side.clips} clip{'s' * (side.clips != 1)}"
    most = max(side.left_out.files.items(), key=lambda item: len(item[1]), default=None)
    why = f"; {len(most[1])} left out ({most[0]})" if most else ""
    at = f" at {side.fps} fps" if side.fps else ""
    what = f"{gave} of {protocol.frames} frames{at}, 2 are the least{why}"
    raise Mistake(what, where=where, mend="longer or more video is needed, or another --fps")


def receipt_for(ruler: Ruler, real: Side, made: Side) -> Receipt:
    """Of the clips' distances; it is known before anything is measured."""
    protocol = ruler.protocol
    fps = real.fps / protocol.every
    bf16 = ruler.about.startswith("bf16")
    return Receipt(
        protocol=protocol.name,
        extractor={"name": ruler.clip.name, "sha": ruler.clip.sha},
        frames=protocol.frames,
        fps=f"{fps.numerator}/{fps.denominator}",
        every=protocol.every,
        stride=protocol.span,
        size=ruler.clip.size,
        resize=RESIZES[protocol.resize],
        range="uint8 to [0, 1]" if protocol.extractor == "videomae" else "uint8 to [-1, 1]",
        epsilon=protocol.epsilon if protocol.extractor == "i3d" else 0.0,
        cov="N-1" if protocol.ddof else "N",
        dtype=f"{'bfloat16' if bf16 else 'float32'} features, {protocol.sums} sums",
        clips_real=_hash(real, ruler),
        clips_generated=_hash(made, ruler),
        version=drivesim.__version__,
    )


def scores(
    ruler: Ruler,
    receipt: Receipt,
    sides: tuple[Side, Side],
    vectors: tuple[Measured, Measured],
    width: Fraction | None,
) -> list[Score]:
    """FVD, KVD and FID of the second side against the first; the first of them has the curve over time."""
    real, made = vectors
    warnings = _warnings(sides, vectors, ruler.clip.dim)
    common = {
        "n_real": len(real.names),
        "n_generated": len(made.names),
        "left_out": [*sides[0].left_out.counted("real"), *sides[1].left_out.counted("generated")],
        "notes": [*sides[0].remarks.counted("real"), *sides[1].remarks.counted("generated")],
        "warnings": warnings,
    }
    video = _frechet("fvd", ruler.clip, receipt, real, made, "features", ruler, common)
    value, spread = kernel.kernel_distance(real.by_drive("features"), made.by_drive("features"))
    kvd = replace(
        video,
        metric=video.metric.replace("fvd", "kvd", 1),
        value=value,
        floor=None,
        controls={
            word: kernel.kernel_distance(real.rows["features"], real.rows[word])[0]
            for word in CONTROLS
            if word in real.rows
        },
        estimate=spread.value if spread else None,
        se=spread.se if spread else None,
    )
    frames = replace(
        receipt,
        extractor={"name": ruler.frame.name, "sha": ruler.frame.sha},
        frames=1,
        size=ruler.frame.size,
        resize=getattr(ruler.frame, "resize", RESIZES[""]),
        range="uint8 to [-1, 1]",
        epsilon=0.0,
        cov="N-1",
        dtype="float32 features, float64 sums",
    )
    image = _frechet("fid", ruler.frame, frames, real, made, "frames", ruler, common)
    return [_with_curve(video, ruler, real, made, width), kvd, _with_curve(image, ruler, real, made, width)]


def _frechet(
    kind: str,
    network: Extractor,
    receipt: Receipt,
    real: Measured,
    made: Measured,
    word: str,
    ruler: Ruler,
    common: dict[str, Any],
) -> Score:
    ddof = 1 if kind == "fid" else ruler.protocol.ddof
    x, y = real.rows[word], made.rows[word]
    spread = jackknife.frechet(real.by_drive(word), made.by_drive(word), ddof)
    altered = {name: real.rows[name] for name in CONTROLS if name in real.rows and kind == "fvd"}
    return Score(
        metric=_metric(kind, network, receipt),
        value=_plain(x, y, ddof, ruler.protocol.sums if kind == "fvd" else "float64"),
        floor=controls.floor(x, real.drives, ddof),
        controls=controls.controls(x, altered, len(y), ddof),
        receipt=receipt,
        estimate=spread.value if spread else None,
        se=spread.se if spread else None,
        **(common | {"n_real": x.flatten(0, -2).shape[0], "n_generated": y.flatten(0, -2).shape[0]}),
    )


def _plain(x: Tensor, y: Tensor, ddof: int, sums: str) -> float:
    if sums == "float64":
        return distance_of(x, y, ddof)
    # VideoGPT's mean and covariance are float32; its float32 root, which is noise on top, is not taken over
    parts = [part for side in (x, y) for part in (side.float().mean(0), torch.cov(side.float().T, correction=ddof))]
    return frechet_distance(*parts)


def _metric(kind: str, network: Extractor, receipt: Receipt) -> str:
    """``fvd`` is for verified Kinetics I3D in float32, ``fid`` for the FID Inception; all else is named."""
    short = "" if receipt.dtype.startswith("float32") else ", bf16"
    own = {"fvd": "i3d", "fid": "inception"}[kind]
    return kind if network.name == own and not short else f"{kind}[{network.name}{short}]"


def _with_curve(score: Score, ruler: Ruler, real: Measured, made: Measured, width: Fraction | None) -> Score:
    """Where the generated videos have several clips: the score over time, and how long it and each video hold."""
    image = score.metric.startswith("fid")
    word, ddof = ("frames", 1) if image else ("features", ruler.protocol.ddof)
    starts = [start for _, start in made.names]
    if len(set(starts)) < 3 or "frozen" not in real.rows:  # --no-controls leaves nothing to hold a curve against
        return score
    width = width or drift.width_for([start + made.span for start in starts], made.span)
    # a held first frame is a picture like any other: no control for single frames
    still = None if image else real.rows["frozen"]
    clips = (drift.Clips(side.rows[word], [start for _, start in side.names]) for side in (real, made))
    found = drift.curve(next(clips), still, next(clips), width, ddof)
    if not image:  # these need no other clips, and stand for a single video as well
        score = replace(score, videos=_videos(real, made), statistics=_statistics(real, made, width))
    if found is None:
        return score
    usual = found.usual
    band = {"floor": usual.floor, "floor_high": usual.floor_high, "limit": usual.limit}
    return replace(
        score,
        curve=[vars(window) for window in found.windows],
        band=band if usual.frozen is None else band | {"frozen": usual.frozen},
        usable_until=found.usable_until,
    )


def _statistics(real: Measured, made: Measured, width: Fraction) -> dict[str, Any]:
    """The cheap statistics of each stretch, generated and real, and what passes for real."""
    low, high = drift.band(real.rows["statistics"]).tolist()
    sides = {
        name: drift.over_time(side.rows["statistics"], [start for _, start in side.names], width)
        for name, side in (("generated", made), ("real", real))
    }
    return {"band": {name: [a, b] for name, a, b in zip(drift.STATISTICS, low, high, strict=True)}, **sides}


def _videos(real: Measured, made: Measured) -> list[dict[str, Any]] | None:
    """How long each generated video with several clips stays like real ones in the cheap statistics."""
    passes = drift.band(real.rows["statistics"])
    places: dict[str, list[int]] = {}
    for place, file in enumerate(made.files):
        places.setdefault(file, []).append(place)
    found = []
    for file, chosen in sorted(places.items()):
        starts = [made.names[place][1] for place in chosen]
        if len(starts) > 2:
            usable = drift.usable(made.rows["statistics"][chosen], starts, made.span, passes)
            end = float(starts[-1] + made.span)
            found.append({"video": file, "seconds": end, "usable_until": usable.until, "because": usable.because})
    return found or None


def _hash(side: Side, ruler: Ruler) -> str:
    return clips_hash(
        (wanted.clip_id, clip * span_seconds(wanted.info, ruler.protocol))
        for wanted in side.videos
        for clip in wanted.clips
    )


def _warnings(sides: tuple[Side, Side], vectors: tuple[Measured, Measured], dim: int) -> list[str]:
    real, made = vectors
    found = warnings_for(len(real.names), len(made.names), dim)
    for name, side in zip(("real", "generated"), sides, strict=True):
        if len(side.left_out):
            found.append(f"{len(side.left_out)} {name} videos were left out: {'; '.join(side.left_out.files)}")
    shared = set(real.names) & set(made.names)
    if shared:
        found.append(f"{len(shared)} clips stand on both sides")
    return found
