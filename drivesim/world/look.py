"""The colours of one seed's world: time of day, weather, season. Colours are RGB in 0..255."""

from dataclasses import dataclass

import numpy as np

from drivesim.randomness import generator

NIGHT_SHARE = 1 / 3
RED, ORANGE, YELLOW, GREEN = (214, 40, 40), (240, 130, 25), (248, 205, 40), (30, 150, 75)
BLUE, CYAN, WHITE, SILVER = (35, 85, 205), (40, 175, 205), (238, 238, 235), (165, 170, 178)
PURPLE, PINK, BLACK = (130, 55, 160), (235, 110, 150), (40, 42, 48)
PAINTS = (RED, BLUE, YELLOW, WHITE, GREEN, ORANGE, CYAN, SILVER, BLACK, RED, BLUE)
CLOTHES = (RED, BLUE, YELLOW, WHITE, GREEN, ORANGE, PURPLE, PINK)
WALLS = (
    (222, 190, 140),
    (205, 110, 85),
    (235, 228, 210),
    (150, 180, 205),
    (225, 170, 70),
    (190, 140, 150),
    (170, 195, 150),
)
ROOFS = ((165, 62, 45), (90, 88, 98), (120, 70, 48), (70, 90, 110))

Colour = tuple[float, float, float]


@dataclass(frozen=True)
class Look:
    """What light and season make of the world.

    Args:
        ambient: light that falls on everything, a factor on albedo.
        haze_at: metres after which haze hides about two thirds of an object.
    """

    night: bool
    zenith: Colour
    horizon: Colour
    haze: Colour
    hill: Colour
    grass: Colour
    field: Colour
    asphalt: Colour
    line: Colour
    middle: Colour
    leaves: tuple[Colour, ...]
    ambient: float
    haze_at: float
    clouds: float
    sun: bool


_DAYS: dict[str, dict] = {
    "clear": {
        "zenith": (62, 128, 214),
        "horizon": (184, 216, 240),
        "clouds": 0.5,
        "sun": True,
        "ambient": 1.0,
        "haze_at": 210,
    },
    "blue": {
        "zenith": (40, 105, 205),
        "horizon": (205, 226, 238),
        "clouds": 0.15,
        "sun": True,
        "ambient": 1.02,
        "haze_at": 240,
    },
    "overcast": {
        "zenith": (150, 160, 172),
        "horizon": (206, 210, 214),
        "clouds": 0.8,
        "sun": False,
        "ambient": 0.86,
        "haze_at": 150,
    },
    "evening": {
        "zenith": (96, 112, 180),
        "horizon": (250, 196, 140),
        "clouds": 0.5,
        "sun": True,
        "ambient": 0.92,
        "haze_at": 190,
    },
}
_SEASONS: dict[str, dict] = {
    "summer": {
        "grass": (92, 148, 62),
        "field": (196, 180, 84),
        "leaves": ((38, 110, 48), (58, 130, 50), (84, 140, 40)),
    },
    "spring": {
        "grass": (108, 168, 70),
        "field": (150, 185, 70),
        "leaves": ((70, 150, 60), (100, 165, 60), (226, 150, 180)),
    },
    "autumn": {
        "grass": (136, 138, 66),
        "field": (150, 108, 62),
        "leaves": ((205, 110, 35), (190, 70, 35), (210, 165, 45)),
    },
}


def look_of(seed: int) -> Look:
    """The look of ``seed``; about a third of the seeds are night."""
    rng = generator("world", seed, "look")
    night = bool(rng.random() < NIGHT_SHARE)
    day = _DAYS[rng.choice(list(_DAYS), p=[0.4, 0.25, 0.15, 0.2])]
    season = _SEASONS[rng.choice(list(_SEASONS), p=[0.5, 0.2, 0.3])]
    grey = rng.uniform(84, 112)
    middle = YELLOW if rng.random() < 0.4 else (240, 240, 236)
    jitter = rng.uniform(-8, 8, 3)
    common = {
        "asphalt": (grey, grey + 2, grey + 7),
        "line": (240, 240, 236),
        "middle": middle,
        "leaves": season["leaves"],
    }
    common |= {"grass": _near(season["grass"], jitter), "field": _near(season["field"], jitter)}
    if night:
        dark = rng.uniform(0.8, 1.2)
        zenith, horizon = (5 * dark, 8 * dark, 20 * dark), (24 * dark, 28 * dark, 48 * dark)
        return Look(
            True,
            zenith,
            horizon,
            haze=horizon,
            hill=(9, 11, 20),
            ambient=0.19,
            haze_at=170,
            clouds=0.0,
            sun=True,
            **common,
        )
    horizon = day["horizon"]
    haze = tuple(0.9 * h + 0.1 * 200 for h in horizon)
    hill = tuple(0.5 * h + 0.5 * g for h, g in zip((84, 110, 140), season["grass"], strict=True))
    return Look(False, haze=haze, hill=hill, **day, **common)


def scaled(colour: Colour | np.ndarray, factor: float) -> Colour:
    """A lighter or darker colour."""
    red, green, blue = (min(float(c) * factor, 255.0) for c in colour)
    return red, green, blue


def _near(colour: Colour, jitter: np.ndarray) -> Colour:
    red, green, blue = np.clip(np.asarray(colour) + jitter, 0, 255).tolist()
    return red, green, blue
