"""The plain PyTorch loop, one image at a time, as torchvision's segmentation reference evaluates.

Run inside its environment: run_torchvision.py WEIGHTS SCANS OUT.csv SIZE cpu|cuda
SCANS is a folder of DICOM files. Writes each slice's area ratio.
"""

import csv
import sys
from pathlib import Path

from bench.speed.peers.deeplab import load, normalised
from bench.speed.peers.measured import Stopwatch, say


def main(weights: Path, scans: Path, out: Path, size: int, device: str) -> None:
    """Read, resize, predict, resize back, threshold and count, file by file."""
    import numpy as np
    import torch
    from pydicom import dcmread
    from torch.nn import functional as F

    network, watch = load(weights, device), Stopwatch()
    predict = watch.around(lambda image: network(image)["out"].cpu())
    files = sorted(scans.rglob("*.dcm"))
    with out.open("w", newline="", encoding="utf-8") as table, torch.inference_mode():
        writer = csv.writer(table)
        for file in files:
            pixels = dcmread(file).pixel_array.astype(np.float32)
            grey = torch.from_numpy(pixels)[None, None].to(device)
            image = normalised(F.interpolate(grey, size=(size, size), mode="bilinear"))
            logits = F.interpolate(predict(image), size=pixels.shape, mode="bilinear")
            writer.writerow([file.name, float((logits.sigmoid() >= 0.5).float().mean())])
    say(slices=len(files), network=watch)


if __name__ == "__main__":
    weights_file, scans_folder, to = map(Path, sys.argv[1:4])
    main(weights_file, scans_folder, to, int(sys.argv[4]), sys.argv[5])
