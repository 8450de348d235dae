"""One fold of the breast ultrasound images (BUSI): a table to train on, pictures to measure.

    python -m bench.busi prepare DATA OUT [--fold 0]
    python -m bench.busi score DATA OUT

DATA holds index.csv (name, class, duplicate_group, area_ratio), images/ and masks/. `prepare`
writes OUT/outlined.csv (train and val) and OUT/held-out/ (copies of the fold's images); `score`
compares OUT/ratios.csv and OUT/masks, written by wsseg-infer, with the true masks.
"""

import argparse
import csv
import hashlib
import shutil
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

FOLDS = 5
VALIDATION_SHARE = 0.15


def fold_of(group: str) -> int:
    """Fold of a group of near-duplicates: a hash, so that it never depends on the order."""
    return int(hashlib.sha256(group.encode()).hexdigest(), 16) % FOLDS


def lesions(data: Path) -> list[dict[str, str]]:
    """Rows of index.csv that show a lesion."""
    with (data / "index.csv").open(newline="", encoding="utf-8") as file:
        return [row for row in csv.DictReader(file) if row["class"] != "normal"]


def prepare(data: Path, out: Path, fold: int) -> None:
    """Write the training table and copy the held-out images."""
    shutil.rmtree(out / "held-out", ignore_errors=True)
    (out / "held-out").mkdir(parents=True)
    held_out = 0
    with (out / "outlined.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "mask", "group", "split"])
        for row in lesions(data):
            group, name = row["duplicate_group"], f"{row['name']}.png"
            image = (data / "images" / name).resolve()
            if fold_of(group) == fold:
                shutil.copyfile(image, out / "held-out" / name)
                held_out += 1
                continue
            share = int(hashlib.sha256(f"val {group}".encode()).hexdigest(), 16) % 1000 / 1000
            split = "val" if share < VALIDATION_SHARE else "train"
            writer.writerow([image, (data / "masks" / name).resolve(), group, split])
    print(f"fold {fold}: {held_out} images held out; wrote {out / 'outlined.csv'}")


def read_mask(path: Path) -> NDArray[np.bool_]:
    """A mask picture as true and false."""
    mask: NDArray[np.bool_] = np.asarray(Image.open(path)) > 0
    return mask


def score(data: Path, out: Path) -> None:
    """Print IoU, Dice and ratio error of the held-out images."""
    with (out / "ratios.csv").open(newline="", encoding="utf-8") as file:
        ratios = {Path(row["source"]).stem: float(row["ratio"]) for row in csv.DictReader(file)}
    counts, errors = [], []
    for name, ratio in ratios.items():
        true = read_mask(data / "masks" / f"{name}.png")
        found = read_mask(next((out / "masks").glob(f"{name}.*")))
        counts.append([(true & found).sum(), (true | found).sum(), true.sum() + found.sum()])
        errors.append(abs(ratio - true.mean()))
    both, either, total = np.array(counts, float).T
    print("| images | IoU per image | IoU pooled | Dice per image | ratio error |")
    print("|---|---|---|---|---|")
    print(
        f"| {len(ratios)} | {(both / np.maximum(either, 1)).mean():.4f} "
        f"| {both.sum() / either.sum():.4f} | {(2 * both / np.maximum(total, 1)).mean():.4f} "
        f"| {np.mean(errors):.4f} |"
    )


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("task", choices=["prepare", "score"])
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--fold", type=int, default=0)
    arguments = parser.parse_args()
    if arguments.task == "prepare":
        prepare(arguments.data, arguments.out, arguments.fold)
    else:
        score(arguments.data, arguments.out)


if __name__ == "__main__":
    main()
