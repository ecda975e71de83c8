"""A score with all that must agree before it may be compared with another: the schema ``drivesim.score/1``."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from typing import Any

from drivesim.errors import Mistake

SCHEMA = "drivesim.score/1"
FEW_CLIPS = 400  # below this no estimator rescues the distance [measured: d = 400, true 8.81, N = 150 gives 70]


@dataclass(frozen=True)
class LeftOut:
    """What was not scored (or, as a note, is remarkable in what was), why, how often, and a few of its names."""

    reason: str
    count: int
    examples: list[str]


@dataclass(frozen=True)
class Receipt:
    """How a score was made.

    Args:
        protocol: name of the preset.
        extractor: ``{name, sha}``.
        frames: of a clip.
        fps: exact, as ``a/b``; that of the frames, after leaving out what ``every`` passes over.
        every: frames of the video to one that is taken.
        stride: frames of the video from the first of a clip to the first of the next.
        size: ``(H, W)`` that the extractor saw.
        resize, range: in words; ``epsilon`` of I3D's batch norms, 0 where there are none.
        cov: ``N`` or ``N-1``.
        dtype: of the features and of the sums.
        clips_real, clips_generated: hashes of the lists of clips.
        version: of drivesim.
        rules: what else must agree, where a score has such; None = none.
    """

    protocol: str
    extractor: dict[str, str]
    frames: int
    fps: str
    every: int
    stride: int
    size: tuple[int, int]
    resize: str
    range: str
    epsilon: float
    cov: str
    dtype: str
    clips_real: str
    clips_generated: str
    version: str
    rules: str | None = None


@dataclass(frozen=True)
class Score:
    """A value with its receipt; null is "not estimated", never 0. See ``Receipt``.

    Args:
        metric: ``fvd`` only for verified Kinetics weights, else ``fvd[what]``; likewise ``kvd`` and ``fid``.
        value: the plug-in distance, as it is published. It is biased upward, the more so the fewer clips there are.
        estimate, se: by the jackknife, without that bias, and its standard error.
        floor: the plug-in distance between two halves of the real clips, split by drive.
        controls: ``{frozen, shuffled}``: what worthless video scores; of ``ap50`` ``{shuffled, true}``: what boxes of
            another video score, and what true frames do.
        curve: the value over time, see ``drift.Window``; ``band`` what most of it is held against.
        usable_until: second at which the curve leaves the band.
        statistics: for long ones: the cheap statistics of each stretch, ``{band, generated, real}``.
        videos: for long ones: ``{video, seconds, usable_until, because}`` by the cheap statistics.
        notes: what is remarkable about videos that were scored.
        obedience: of ``ap50``: ``{truth, threshold}``; ``whole``, and the same of the controls ``true`` and
            ``shuffled``: counts and numbers as of ``obedience.whole``; ``by_class``, ``by_size``, ``true_by_class``,
            ``true_by_size``, ``by_second`` and ``by_video``: as the functions of ``obedience`` of these names say.
    """

    metric: str
    value: float
    n_real: int
    n_generated: int
    floor: float | None
    controls: dict[str, float]
    receipt: Receipt
    warnings: list[str] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)
    notes: list[LeftOut] = field(default_factory=list)
    estimate: float | None = None
    se: float | None = None
    curve: list[dict[str, Any]] | None = None
    band: dict[str, float] | None = None
    usable_until: float | None = None
    videos: list[dict[str, Any]] | None = None
    statistics: dict[str, Any] | None = None
    obedience: dict[str, Any] | None = None
    schema: str = SCHEMA

    def plain(self) -> dict[str, Any]:
        """As JSON carries it."""
        return json.loads(json.dumps(asdict(self)))


def comparable(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """The receipt's keys in which two scores (as plain values) differ; empty: they may be compared."""
    mine, yours = one["receipt"], other["receipt"]
    same = json.loads(json.dumps([mine, yours]))  # as files carry them: tuples are lists there
    keys = sorted(mine.keys() | yours.keys(), key=lambda key: (key == "clips_real", key))  # rules before what they gave
    different = [k for k in keys if same[0].get(k) != same[1].get(k)]
    return [k for k in different if k not in ("clips_generated", "version")]


def refuse_unlike(one: dict[str, Any], other: dict[str, Any], where: object = None) -> None:
    """Two scores may be compared only where all of their receipts agrees but the generated clips and the version.

    Raises:
        Mistake: it does not; the fields that differ are named with both values.
    """
    different = comparable(one, other)
    if one.get("metric") != other.get("metric"):
        what = f"{one.get('metric')} is not {other.get('metric')}"
    elif different:
        name = different[0]
        what = f"{name} differs: {one['receipt'].get(name)} here, {other['receipt'].get(name)} there"
        what += f"; also {', '.join(different[1:])}" if different[1:] else ""
    else:
        return
    raise Mistake(f"the scores do not compare: {what}", where=where, mend="score both under one protocol")


def clips_hash(clips: Iterable[tuple[str, Fraction]]) -> str:
    """Sixteen digits for a set of clips, each an id and its start in seconds; their order does not matter."""
    lines = sorted(f"{clip_id} {start}" for clip_id, start in clips)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def warnings_for(n_real: int, n_generated: int, dim: int) -> list[str]:
    """What a reader must hear before the value."""
    found = []
    for side, n in (("real", n_real), ("generated", n_generated)):
        if n < FEW_CLIPS:
            found.append(
                f"only {n} {side} clips: under {FEW_CLIPS} the distance is biased upward, and is none to publish"
            )
        if n <= dim:
            found.append(f"only {n} {side} clips for {dim} features: the covariance is singular")
    return found
