"""One random change of a training picture, drawn within the settings; `augment` applies it."""

import math
from dataclasses import dataclass

import numpy as np

from wsseg.train.config import Augmentation

# Share of samples that are rotated and shrunk: the others keep the scale at which the network
# will be used.
TURNED_SHARE = 0.5


@dataclass(frozen=True)
class Change:
    """One drawn change; the default changes nothing.

    quarter_turns: counter-clockwise. degrees: rotation about the centre, clockwise. scale: of the
    picture within its frame, small enough that all of the picture stays in view. contrast:
    relative change about the mean. brightness: added. noise: standard deviation added, drawn from
    `noise_seed`.
    """

    flip_horizontal: bool = False
    flip_vertical: bool = False
    quarter_turns: int = 0
    degrees: float = 0.0
    scale: float = 1.0
    contrast: float = 0.0
    brightness: float = 0.0
    noise: float = 0.0
    noise_seed: int = 0


def draw(settings: Augmentation, random: np.random.Generator, *, upright: bool = False) -> Change:
    """A change within the settings; `upright`: without a free rotation.

    The same numbers are drawn either way, so that one case's hints do not change another's course.
    """
    flips = random.random(2) < (settings.flip_horizontal, settings.flip_vertical)
    turns = int(random.integers(1, 4)) if random.random() < settings.turn else 0
    degrees, scale = _draw_rotation(settings, random)
    if upright:
        degrees = 0.0
    contrast, brightness = random.uniform(-1, 1, 2) * (settings.contrast, settings.brightness)
    return Change(
        flip_horizontal=bool(flips[0]),
        flip_vertical=bool(flips[1]),
        quarter_turns=turns,
        degrees=degrees,
        scale=scale,
        contrast=float(contrast),
        brightness=float(brightness),
        noise=float(random.uniform(0, settings.noise)),
        noise_seed=int(random.integers(2**32)),
    )


def _draw_rotation(settings: Augmentation, random: np.random.Generator) -> tuple[float, float]:
    steepest = min(settings.rotate_degrees, _steepest(settings.shrink))
    degrees = float(random.uniform(-steepest, steepest))
    largest = max(settings.shrink, largest_scale(degrees))
    scale = float(random.uniform(settings.shrink, largest))
    turned = random.random() < TURNED_SHARE and settings.shrink < 1
    return (degrees, min(scale, largest_scale(degrees))) if turned else (0.0, 1.0)


def largest_scale(degrees: float) -> float:
    """Scale at which a square, rotated about its centre, just fits into its own frame."""
    angle = math.radians(degrees)
    return 1 / (abs(math.cos(angle)) + abs(math.sin(angle)))


def _steepest(scale: float) -> float:
    """Angle, in degrees, up to which a square of this scale stays in its frame."""
    # cos a + sin a = 1 / scale, squared: sin 2a = 1 / scale**2 - 1.
    sine = 1 / scale**2 - 1
    return 180.0 if sine >= 1 else math.degrees(math.asin(sine)) / 2
