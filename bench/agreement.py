"""Agreement of a trained network's ratios with those of held-out masks, by the commands of wsseg.

`python -m bench.agreement RUN --data FOLDER --out FOLDER` takes a run of `bench.accuracy`, exports
it, measures the images of its data set that were held out, and compares the ratios with those of
the masks. Images of one group (near-duplicates, slices of one patient) count as one patient's.
"""

import argparse
import csv
from pathlib import Path

import numpy as np

import wsseg
from bench.accuracy.datasets import DATASETS, Dataset, Picture, label_map
from bench.accuracy.folds import parts


def main() -> None:
    """Write the tables, plots and text into --out, and print the text."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("run", type=Path, help="run folder of bench.accuracy")
    parser.add_argument("--data", type=Path, required=True, help="folder that holds the data sets")
    parser.add_argument("--dataset", default="busi", choices=DATASETS)
    parser.add_argument("--fold", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    dataset = DATASETS[given.dataset]
    pictures = dataset.read(given.data / dataset.folder)
    kept = parts(pictures, given.fold, dealt=dataset.dealt)
    held_out = [p for p, part in zip(pictures, kept, strict=True) if part == "held-out"]
    given.out.mkdir(parents=True, exist_ok=True)
    recorded = given.out / "recorded.csv"
    write_recorded(recorded, dataset, held_out)
    model = wsseg.export_model(given.run, given.out / "model", overwrite=True)
    report = given.out / "ratios.csv"
    model.measure_to(report, [each.image for each in held_out], overwrite=True)
    found = wsseg.agree(
        report, recorded, out=given.out / "agreement.csv", plots=given.out / "plots", overwrite=True
    )
    print(found.text)


def write_recorded(path: Path, dataset: Dataset, pictures: list[Picture]) -> None:
    """The ratios of the masks, by the names of the images."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["source", "group", *(f"ratio:{name}" for name in dataset.classes)])
        for picture in pictures:
            labels = label_map(dataset, picture)
            ratios = [float(np.mean(labels == n)) for n in range(1, len(dataset.classes) + 1)]
            writer.writerow([picture.image.name, picture.group, *ratios])


if __name__ == "__main__":
    main()
