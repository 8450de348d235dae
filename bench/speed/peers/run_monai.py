"""MONAI's sliding-window inference, slice by slice through a volume, with wsseg's own network.

Run inside MONAI's environment: run_monai.py WEIGHTS SCANS OUT SIZE cpu|cuda
SCANS is a folder of DICOM series, each in a folder. Writes label maps as NIfTI. SIZE is the window:
512 sees a slice of 512 x 512 at once.
"""

import sys
from pathlib import Path

from bench.speed.peers.deeplab import load, normalised
from bench.speed.peers.measured import Stopwatch, say

WINDOWS_AT_ONCE = 4


def main(weights: Path, scans: Path, out: Path, size: int, device: str) -> None:
    """Load, infer, threshold and save, series by series."""
    import torch
    from monai.data.image_reader import PydicomReader
    from monai.inferers.inferer import SliceInferer
    from monai.transforms.io.array import LoadImage, SaveImage

    network, watch, slices = load(weights, device), Stopwatch(), 0
    predict = watch.around(lambda windows: network(normalised(windows))["out"])
    reader = LoadImage(reader=PydicomReader(), image_only=True, ensure_channel_first=True)
    save = SaveImage(output_dir=out, output_ext=".nii.gz", separate_folder=False)
    infer = SliceInferer(
        spatial_dim=2, roi_size=(size, size), sw_batch_size=WINDOWS_AT_ONCE, progress=False
    )
    with torch.inference_mode():
        for folder in sorted(path for path in scans.iterdir() if path.is_dir()):
            volume = reader(str(folder))
            logits = infer(volume[None].to(device), predict)
            save((logits[0].sigmoid() >= 0.5).cpu())
            slices += volume.shape[-1]
    say(slices=slices, network=watch)


if __name__ == "__main__":
    weights_file, scans_folder, to = map(Path, sys.argv[1:4])
    main(weights_file, scans_folder, to, int(sys.argv[4]), sys.argv[5])
