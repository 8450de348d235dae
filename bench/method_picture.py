"""How marks become targets, drawn on a made picture: python -m bench.method_picture OUT.png

The picture is speckle with one dark, lobed region; every growth is told the region's true area and
nothing else of its outline.
"""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from wsseg.imaging.files import atomic
from wsseg.train.cases import MarkKind
from wsseg.train.simulate import (
    disc_mark,
    erode_mark,
    point_mark,
    random_disc_mark,
    stroke_mark,
)
from wsseg.train.targets import (
    BlobProposal,
    Evidence,
    Target,
    best_blobs,
    first_target,
    on_blob_grid,
)

SIDE = 192
SEED = 4
Mask = NDArray[np.bool_]


def phantom() -> tuple[NDArray[np.float32], Mask]:
    """Image 0..1 and region: two lobes in speckle, with a shadow below."""
    random = np.random.default_rng(SEED)
    rows, columns = np.indices((SIDE, SIDE)).astype(float)
    lobes = [(88, 78, 30, 40), (106, 116, 29, 34)]
    region = np.zeros((SIDE, SIDE), bool)
    for row, column, height, width in lobes:
        region |= ((rows - row) / height) ** 2 + ((columns - column) / width) ** 2 <= 1
    bright = np.where(region, 0.16, 0.5 - 0.12 * rows / SIDE)
    bright[(rows > 110) & (abs(columns - 80) < 34) & ~region] *= 0.7
    speckle = ndimage.gaussian_filter(random.rayleigh(1.0, (SIDE, SIDE)), 1.2) / 1.25
    return (ndimage.gaussian_filter(bright, 1.5) * speckle).clip(0, 1).astype(np.float32), region


def begun(image: NDArray[np.float32], mark: Mask, share: float, kind: MarkKind | None) -> Target:
    """The first target of one mark and the area; without a mark the dark blob of that area."""
    areas = np.array([[share, share]])
    known = Evidence(image, mark.astype(np.uint8), areas, (None,), (bool(mark.any()),), (kind,))
    if not mark.any():
        blob = best_blobs(on_blob_grid(image), share)[-1]
        known = replace(known, proposals=(BlobProposal(blob, certainty=1.0),))
    return first_target(known, "euclidean")


def draw(path: Path) -> None:
    """One panel a kind of mark: the mark, what is taught as inside, and where that is doubtful."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    image, region = phantom()
    marks: list[tuple[str, MarkKind | None, Mask]] = [
        ("eroded, 8 %", "eroded", erode_mark(region, 8)),
        ("scribble", "scribble", stroke_mark(region, 8)),
        ("centre disc, 8 %", "disc", disc_mark(region, 8)),
        ("random disc, 8 %", "disc", random_disc_mark(region, 8, np.random.default_rng(SEED))),
        ("one point", "point", point_mark(region)),
        ("no mark: the blob of that size", None, np.zeros_like(region)),
    ]
    figure = Figure(figsize=(2.5 * len(marks), 2.9), layout="constrained")
    FigureCanvasAgg(figure)
    for place, (title, kind, mark) in enumerate(marks, 1):
        axes = figure.add_subplot(1, len(marks), place)
        target = begun(image, mark, float(region.mean()), kind)
        inside, doubtful = target.inside[0], target.weight[0] < 1
        veil = np.zeros((SIDE, SIDE, 4))
        veil[inside] = (0.90, 0.62, 0.0, 0.45)
        veil[doubtful] = (0.34, 0.71, 0.91, 0.25)
        veil[inside & doubtful] = (0.62, 0.66, 0.45, 0.45)
        axes.imshow(image, cmap="gray", vmin=0, vmax=0.8)
        axes.imshow(veil)
        axes.contour(region, [0.5], colors="white", linewidths=0.8, linestyles="dotted")
        axes.imshow(np.where(mark[..., None], (0.84, 0.37, 0.0, 1.0), 0.0))
        overlap = (inside & region).sum() / (inside | region).sum()
        axes.set_title(f"{title}\nIoU {overlap:.2f}", fontsize=8)
        axes.set_axis_off()
    with atomic(path) as partial:
        figure.savefig(partial, dpi=110, format="png")


if __name__ == "__main__":
    draw(Path(sys.argv[1]))
