"""Changes to training pictures that keep their area ratios true: drawn first, then applied."""

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as transforms

from wsseg.train.batch import NOT_MARKED
from wsseg.train.config import Augmentation
from wsseg.train.dataset import Sample

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


def augment(
    sample: Sample, settings: Augmentation, of_image: Bool[Tensor, " k"], *, seed: int, epoch: int
) -> Sample:
    """The sample as one epoch sees it; the same for the same seed, epoch and case.

    of_image: which ratios are shares of the whole image, see `CaseDataset`.
    """
    random = np.random.default_rng((seed, epoch, sample.index))
    return apply(draw(settings, random), sample, of_image)


def draw(settings: Augmentation, random: np.random.Generator) -> Change:
    """A change within the settings."""
    flips = random.random(2) < (settings.flip_horizontal, settings.flip_vertical)
    turns = int(random.integers(1, 4)) if random.random() < settings.turn else 0
    degrees, scale = _draw_rotation(settings, random)
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


def apply(change: Change, sample: Sample, of_image: Bool[Tensor, " k"]) -> Sample:
    """The changed sample: intensities first, then places, so that the empty border is 0.

    A ratio of the whole image becomes ratio * scale**2, which is what its pixels then cover; a
    ratio of one area to another stays.
    """
    image = _change_intensities(sample.image, change)
    places = [_move(stack, change) for stack in (image, sample.marks[None], sample.mask)]
    image, marks, mask = (_rotate(stack, change) for stack in places)
    if change.scale != 1 or change.degrees != 0:
        marks = _keep_marks(places[1], marks, change)
    ratio = torch.where(of_image, sample.ratio * change.scale**2, sample.ratio)
    return replace(sample, image=image, ratio=ratio, marks=marks[0], mask=mask)


def _change_intensities(image: Tensor, change: Change) -> Tensor:
    mean = image.mean()
    changed = (image - mean) * (1 + change.contrast) + mean + change.brightness
    if change.noise:
        random = np.random.default_rng(change.noise_seed)
        noise = random.standard_normal(image.shape, np.float32) * change.noise
        changed = changed + torch.from_numpy(noise)
    return changed.clamp(0, 1)


def _move(stack: Tensor, change: Change) -> Tensor:
    """Flips and quarter turns, which move pixels without changing them."""
    if change.flip_horizontal:
        stack = stack.flip(2)
    if change.flip_vertical:
        stack = stack.flip(1)
    return torch.rot90(stack, change.quarter_turns, (1, 2))


def _rotate(stack: Tensor, change: Change) -> Tensor:
    """Rotation and shrinking about the centre: bilinear for intensities, nearest for labels."""
    if change.scale == 1 and change.degrees == 0:
        return stack
    smooth = stack.is_floating_point()
    turned: Tensor = transforms.affine(
        stack if smooth else stack.float(),  # its nearest mode, too, samples floats
        angle=change.degrees,
        translate=[0, 0],
        scale=change.scale,
        shear=[0.0, 0.0],
        interpolation=InterpolationMode.BILINEAR if smooth else InterpolationMode.NEAREST,
        fill=0,
    )
    return turned.to(stack.dtype)


def _keep_marks(before: Tensor, after: Tensor, change: Change) -> Tensor:
    """Put back each marked pixel (1, s, s) whose label is gone from around its new place."""
    labels, kept = before[0].numpy(), after[0].numpy().copy()
    rows, columns = np.nonzero(labels != NOT_MARKED)
    new_rows, new_columns = _new_places(rows, columns, len(labels), change)
    for label in np.unique(labels[rows, columns]):
        near = ndimage.binary_dilation(kept == label, np.ones((3, 3)))
        lost = (labels[rows, columns] == label) & ~near[new_rows, new_columns]
        kept[new_rows[lost], new_columns[lost]] = label
    return torch.from_numpy(kept)[None]


def _new_places(
    rows: NDArray[np.intp], columns: NDArray[np.intp], size: int, change: Change
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Pixels that pixels move to under `_rotate`; y points down, so clockwise is positive."""
    centre = (size - 1) / 2
    angle = math.radians(change.degrees)
    cosine, sine = change.scale * math.cos(angle), change.scale * math.sin(angle)
    x, y = columns - centre, rows - centre
    moved = (sine * x + cosine * y + centre, cosine * x - sine * y + centre)
    new_rows, new_columns = (np.rint(place).astype(np.intp) for place in moved)
    return new_rows, new_columns
