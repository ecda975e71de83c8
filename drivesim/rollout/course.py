"""Which stages a rollout runs: what its scenario asks for, as far as the weights at hand allow."""

import math
from dataclasses import dataclass, replace
from fractions import Fraction

from drivesim import config
from drivesim.errors import Mistake
from drivesim.rollout.plan import BETWEEN, PASS_FPS, Pieces, Plan, factor_for, keyframes_for, passes_for
from drivesim.rollout.scenario import Scenario
from drivesim.rollout.settings import STEPS_BETWEEN, RolloutConfig
from drivesim.rollout.stack import Stack
from drivesim.scene import KEYFRAME_FPS

UNINTERPOLATED = Fraction(15, 2)  # frames between key-frames are then blended, which at 30 fps would be most of them


@dataclass(frozen=True)
class Course:
    """The stages of one rollout.

    Args:
        size: ``(H, W)`` of the output.
        decoder: pieces of the decoder with temporal layers; None: frames are decoded by themselves.
        upsampler: windows of the upsampler; None: frames leave as they are decoded.
    """

    plan: Plan
    size: tuple[int, int]
    decoder: Pieces | None
    upsampler: Pieces | None

    def words(self, filled: str) -> list[str]:
        """The stages as a user is told them."""
        plan, decoder = self.plan, "decoder with temporal layers" if self.decoder else "image decoder"
        words = [f"key-frames at {float(KEYFRAME_FPS):g} fps"]
        words += [f"interpolation to {float(PASS_FPS[n]):g}" for n in range(plan.passes)]
        words += [decoder]
        words += [f"{filled} to {float(plan.fps):g}"] if plan.filled > 1 else []
        words += [f"upsampler to {self.size[0]}x{self.size[1]}"] if self.upsampler else []
        return words


def course(stack: Stack, scenario: Scenario, settings: RolloutConfig) -> Course:
    """The stages that make what ``scenario`` asks for.

    Raises:
        Mistake: the weights cannot make it, or scenario, settings and weights do not fit together.
    """
    _check_told(stack, scenario)
    _check_given(stack, scenario, settings)
    size = _size(stack, scenario)
    rates = stack.interpolation.rates if stack.interpolation else ()
    factor = factor_for(_rate(scenario, rates, stack.temporal))
    passes = passes_for(factor, rates)
    plan = _plan(stack, scenario, settings, factor, passes)
    decoder = None
    own = stack.temporal_decoder
    if own is not None and own.fps == KEYFRAME_FPS * (BETWEEN + 1) ** passes:
        decoder = Pieces(settings.decode.frames, settings.decode.overlap)
    upsampler = _windows(stack, settings, size) if size != stack.size else None
    used = [(stack.keyframes, settings.sampler), (stack.image if not scenario.opening.clip else None, settings.start)]
    if passes and stack.interpolation:
        used.append((stack.interpolation.denoiser, settings.interpolation.sampler))
    if upsampler and stack.upsampler:
        used.append((stack.upsampler.denoiser, settings.upsample.sampler))
    for denoiser, sampler in used:
        if denoiser is not None:
            sampler.build(denoiser)
    return Course(plan, size, decoder, upsampler)


def scaled(settings: RolloutConfig, scenario: Scenario) -> RolloutConfig:
    """The settings under the scenario's own guidance scales."""
    own = {name: value for name, value in config.plain(scenario.guidance).items() if value is not None}
    return replace(settings, guidance=replace(settings.guidance, **own))


def settled(stack: Stack, settings: RolloutConfig) -> RolloutConfig:
    """``settings`` with the number of steps of every sampler, and the bounds, as the weights have them where the user
    says nothing; and without noise on given frames where they stand in the window as they are.

    Raises:
        Mistake: distilled weights, and another sampler than they were taught.
    """
    between = stack.interpolation.denoiser if stack.interpolation else None
    larger = stack.upsampler.denoiser if stack.upsampler else None
    inner, upsample = settings.interpolation, settings.upsample
    return replace(
        settings,
        context_noise=0.0 if stack.known else settings.context_noise,
        bounds=stack.usual.width if settings.bounds is None and stack.usual else settings.bounds,
        sampler=settings.sampler.settled(stack.keyframes, "sampler"),
        start=settings.start.settled(stack.image, "start"),
        interpolation=replace(inner, sampler=inner.sampler.settled(between, "interpolation.sampler", STEPS_BETWEEN)),
        upsample=replace(upsample, sampler=upsample.sampler.settled(larger, "upsample.sampler")),
    )


def _plan(stack: Stack, scenario: Scenario, settings: RolloutConfig, factor: int, passes: int) -> Plan:
    """Windows that are given the one before; or one window all from noise, as long as the model was trained on or,
    where it can be longer, as asked.

    Raises:
        Mistake: more key-frames than a model without given frames can make.
    """
    if stack.contextual:
        given, count = scenario.opening.given, keyframes_for(scenario.length)
        return Plan(count, stack.frames, settings.overlap, given, factor, passes)
    count = stack.frames if scenario.seconds is None else keyframes_for(scenario.seconds)
    if count > stack.frames and not stack.stretches:
        most = math.floor(100 * (stack.frames - 1) / KEYFRAME_FPS) / 100
        what = f"{count} key-frames: these weights make {stack.frames} at once, each in its place"
        mend = f"at most {most:g} seconds; more takes temporal layers with alpha: scalar and positions: relative"
        raise Mistake(what, field="seconds", mend=mend)
    frames = max(count, stack.frames)
    return Plan(count, frames, min(settings.overlap, frames - 1), 0, factor, passes)


def _check_told(stack: Stack, scenario: Scenario) -> None:
    """Raises:
    Mistake: labels for a model that is told words, or words for one that is told labels.
    """
    told, by_field = scenario.told, "labels" if scenario.labels else "opening.generate"
    if not stack.words:
        mend = "night and cars are what they may be told; 'drivesim weights convert' makes weights that are told words"
        for name, words in ((f"{by_field}.prompt", told.prompt), ("temporal_prompt", scenario.temporal_prompt)):
            if words is not None:
                raise Mistake("these weights are told no words", field=name, mend=mend)
    for name, value, said in (("night", told.night, "a street at night"), ("cars", told.cars, "a street full of cars")):
        if stack.words and value is not None:
            mend = f"say it there: --prompt '{said}'"
            raise Mistake("these weights are told in words", field=f"{by_field}.{name}", mend=mend)


def _check_given(stack: Stack, scenario: Scenario, settings: RolloutConfig) -> None:
    opening = scenario.opening
    if not stack.contextual:
        if opening.clip:
            what = "these weights make every frame from noise, and are given none"
            raise Mistake(what, field="opening.clip", mend="leave the opening out: --prompt says what is shown")
        return
    for wrong, what, where, mend in (
        (
            settings.overlap >= stack.frames,
            f"{settings.overlap} frames leave nothing to predict in windows of {stack.frames}",
            "overlap",
            f"at most {stack.frames - 1}",
        ),
        (
            bool(settings.bounds) and stack.usual is None,
            "these weights do not say what their footage is like",
            "bounds",
            "leave it out, or train the key-frames again",
        ),
        (
            settings.overlap > stack.most_given,
            f"{settings.overlap} given frames; these weights learned from at most {stack.most_given}",
            "overlap",
            None,
        ),
        (
            stack.known and settings.guidance.context != 1,
            "these weights see given frames in the window itself, which guidance cannot take away",
            "guidance.context",
            "leave it out",
        ),
        (
            opening.given >= stack.frames,
            f"{opening.given} given frames fill a window of {stack.frames}",
            "opening.frames",
            "give 1",
        ),
        (
            not opening.clip and stack.image is None,
            "no image weights to make a start frame with",
            None,
            "--opening CLIP@SECOND starts from a real clip",
        ),
    ):
        if wrong:
            raise Mistake(what, where=where, mend=mend)


def _rate(scenario: Scenario, rates: tuple[float, ...], temporal: bool) -> Fraction:
    if scenario.rate is not None:
        return scenario.rate
    if not temporal:  # images that have nothing to do with each other are not blended
        return KEYFRAME_FPS
    highest = KEYFRAME_FPS * (BETWEEN + 1) ** passes_for((BETWEEN + 1) ** len(PASS_FPS), rates)
    return max(highest, UNINTERPOLATED)


def _size(stack: Stack, scenario: Scenario) -> tuple[int, int]:
    makes = [size for size in (stack.size, stack.upsampled) if size is not None]
    if scenario.size is None:
        return makes[-1]
    asked = (scenario.size[0], scenario.size[1])
    if asked not in makes:
        made = " or ".join(f"{height}x{width}" for height, width in makes)
        what = f"these weights make {made} frames, not {asked[0]}x{asked[1]}"
        raise Mistake(what, where="size", mend="leave it out, or train at that size")
    return asked


def _windows(stack: Stack, settings: RolloutConfig, size: tuple[int, int]) -> Pieces:
    model, own = stack.upsampler, settings.upsample
    assert model is not None  # a size beyond the decoder's is the upsampler's
    if (own.noise or 0) > model.levels:
        what = f"noise {own.noise}; these weights learned from at most {model.levels}"
        raise Mistake(what, where="upsample", mend=f"upsample.noise={model.levels}")
    for name, sides in (("tile", own.tile or ()), ("tile_overlap", (own.tile_overlap,) if own.tile else ())):
        if any(side % model.unit for side in sides):
            what = f"{name} is a multiple of {model.unit} pixels, not {'x'.join(map(str, sides))}"
            raise Mistake(what, where="upsample", mend=_nearest(name, sides, model.unit))
    if own.tile is not None and (own.tile[0] > size[0] or own.tile[1] > size[1]):
        what = f"tiles of {own.tile[0]}x{own.tile[1]} are larger than frames of {size[0]}x{size[1]}"
        raise Mistake(what, where="upsample", mend="leave upsample.tile out for whole frames")
    return Pieces(model.frames, min(own.overlap, model.frames - 1))


def _nearest(name: str, sides: tuple[int, ...], unit: int) -> str:
    near = [max(1, round(side / unit)) * unit for side in sides]
    return f"upsample.{name}={near if len(near) > 1 else near[0]}".replace(" ", "")
