"""Obedience as a score: its value, its controls, its course over time, until when it holds, and its receipt."""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise

import drivesim
from drivesim.metrics import obedience
from drivesim.metrics.detection import Detector
from drivesim.metrics.matching import Size
from drivesim.metrics.obedience import RULES, Plain, Watched, judge
from drivesim.metrics.receipt import LeftOut, Receipt, Score, clips_hash

METRIC = "ap50"
DOUBTFUL = 0.5  # AP50 on true frames below which the detector itself is to be doubted
TOLD, OWN = "the boxes that the video was told", "the detector's own detections on the real video"


@dataclass(frozen=True, eq=False)
class Side:
    """What a detector saw of the videos of a side.

    Args:
        clips: of each video, the hash of its bytes.
    """

    videos: list[Watched]
    clips: list[str]

    @property
    def hash(self) -> str:
        return clips_hash((c, t) for c, video in zip(self.clips, self.videos, strict=True) for t in video.times)

    @property
    def frames(self) -> int:
        return sum(len(video.times) for video in self.videos)


def score(
    made: Side,
    true: Side | None,
    detector: Detector,
    truth: str,
    real: tuple[str, int],
    width: Fraction,
    left_out: Sequence[LeftOut] = (),
) -> Score | None:
    """The score of the generated videos ``made``; None where no box is judged in any of their frames.

    Args:
        true: what the detector saw of true frames, of which the boxes are known.
        truth: ``TOLD`` or ``OWN``: what the detections are held against.
        real: hash and number of the true frames that had a part in it, be it as ``true`` or as the truth.
        width: seconds of a stretch of the curve.
    """
    threshold = detector.threshold
    judged = judge(made.videos, detector.classes, threshold)
    chance = judge(obedience.shuffled(made.videos), detector.classes, threshold)
    best = judge(true.videos, detector.classes, threshold) if true and true.videos else None
    told, by_chance = obedience.whole(judged), obedience.whole(chance)
    sure = obedience.whole(best) if best else None
    if told["ap50"] is None:
        return None
    stretches = obedience.by_second(judged, width)
    references = {"shuffled": by_chance["ap50"], "true": sure["ap50"] if sure else None}
    controls = {name: value for name, value in references.items() if value is not None}
    limit = limit_of(stretches, controls.get("true"))
    spread = obedience.spread(judged)
    return Score(
        metric=METRIC,
        value=told["ap50"],
        n_real=real[1],
        n_generated=made.frames,
        floor=None,
        controls=controls,
        receipt=receipt(made, real[0], detector, f"{RULES}; truth: {truth}; threshold {threshold:g}"),
        warnings=_warnings(sure) if truth == TOLD else [],
        left_out=list(left_out),
        estimate=None if spread is None else told["ap50"],
        se=spread,
        curve=[_window(stretch) for stretch in stretches] if len(stretches) > 1 else None,
        band={"limit": limit} | controls if limit is not None and len(stretches) > 1 else None,
        usable_until=usable_until(stretches, limit) if limit is not None and len(stretches) > 1 else None,
        obedience={
            "truth": truth,
            "threshold": threshold,
            "whole": told,
            "true": sure,
            "shuffled": by_chance,
            "by_class": obedience.by_class(judged),
            "by_size": obedience.by_size(judged),
            "by_second": stretches,
            "by_video": obedience.by_video(judged),
            "true_by_class": obedience.by_class(best) if best else None,
            "true_by_size": obedience.by_size(best) if best else None,
        },
    )


def limit_of(stretches: Sequence[Plain], true: float | None) -> float | None:
    """Half of what true frames score, or, without them, of the first stretch that has a value."""
    first = next((stretch["ap50"] for stretch in stretches if stretch["ap50"] is not None), None)
    reference = first if true is None else true
    return None if reference is None else reference / 2


def usable_until(stretches: Sequence[Plain], limit: float) -> float:
    """The second from which on the curve's interval lies below ``limit``, to the end; where it never stays there, the
    end of the last stretch that has a value."""
    measured = [stretch for stretch in stretches if stretch["ap50"] is not None]
    until = measured[-1]["t1"]
    for stretch in reversed(measured):
        bounds = stretch["interval"]["ap50"]
        if (stretch["ap50"] if bounds is None else bounds[1]) >= limit:
            return float(until)
        until = stretch["t0"]
    return float(until)


def _window(stretch: Plain) -> Plain:
    low, high = stretch["interval"]["ap50"] or (None, None)
    bounds = {"t0": stretch["t0"], "t1": stretch["t1"], "clips": stretch["videos"]}
    return bounds | {"value": stretch["ap50"], "lo": low, "hi": high}


def _warnings(sure: Plain | None) -> list[str]:
    if sure is None:
        return [f"{METRIC} without true frames whose boxes are known: it does not say how far the detector itself errs"]
    if sure["ap50"] is None or sure["ap50"] < DOUBTFUL:
        found = "nothing" if sure["ap50"] is None else f"{sure['ap50']:.2f}"
        return [f"the detector itself has an {METRIC} of {found} on true frames: little can be read from its verdict"]
    return []


def receipt(made: Side, clips_real: str, detector: Detector, rules: str) -> Receipt:
    rate, size = _rate(made.videos), _size(made.videos)
    return Receipt(
        protocol="boxes",
        extractor={"name": detector.name, "sha": detector.sha},
        frames=1,
        fps=f"{rate.numerator}/{rate.denominator}",
        every=1,
        stride=1,
        size=size,
        resize="generated frames as they are; true ones to their size: centre crop, area when smaller, else bilinear",
        range="uint8",
        epsilon=0.0,
        cov="",
        dtype="float32 detections, float64 sums",
        clips_real=clips_real,
        clips_generated=made.hash,
        version=drivesim.__version__,
        rules=rules,
    )


def _rate(videos: Sequence[Watched]) -> Fraction:
    """Frames a second that were looked at: by the usual step between two of them."""
    steps = sorted(b - a for video in videos for a, b in pairwise(video.times))
    return 1 / steps[len(steps) // 2] if steps else Fraction(0)


def _size(videos: Sequence[Watched]) -> Size:
    """The usual size."""
    sizes = [video.size for video in videos]
    return max(sorted(set(sizes)), key=sizes.count)
