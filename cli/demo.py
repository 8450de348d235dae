"""`wsseg demo`: the whole way on real images that a package ships, from ratios and marks to
ratios.csv, held against the truth."""

import csv
import logging
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from wsseg.cli.console import JsonLogOption, console, guarded, start_logging
from wsseg.imaging.errors import AllFailedError, SomeFailedError, WssegError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_log = logging.getLogger("wsseg.demo")

MARK_PERCENT = 8.0
NETWORK_SIZE = 128
MARKER = ".wsseg-demo"
# source column of ratios.csv -> class -> ratio per slice, in slice order
Ratios = dict[str, dict[str, "NDArray[np.float64]"]]

OPACITY = 150
SHOWN = (2, 8, 14)
"""Of the held-out slices, those in the picture."""


def demo(
    out: Annotated[Path, typer.Option(help="Folder to write everything to.")] = Path("demo-out"),
    epochs: Annotated[int, typer.Option(min=1, help="Rounds of training.")] = 24,
    json_log: JsonLogOption = False,
) -> None:
    """Train, export and measure on a brain MRI template, and compare with the truth."""
    start_logging(as_json=json_log)
    kept = f"what was finished is kept in {out} until the demo runs again, which begins anew"
    with guarded(interrupted=kept):
        run_demo(out, epochs=epochs)


def run_demo(out: Path, *, epochs: int) -> None:
    """Do the whole job in `out`, which must be empty, missing, or an earlier demo's."""
    from wsseg.imaging.disk import writing
    from wsseg.imaging.files import lock_output

    busy = f"another demo is at work in {out}: choose another --out, or wait for it"
    with lock_output(out, busy), writing(out):
        _run(out, epochs)


def _run(out: Path, epochs: int) -> None:
    import numpy as np

    from wsseg.cli import demo_data
    from wsseg.train.simulate import simulate_marks

    _clear(out)
    data = demo_data.load(out / "template")
    cases = simulate_marks(
        demo_data.write_cases(data, out / "outlines"),
        out / "cases",
        percent=MARK_PERCENT,
        keep_masks=(),
    )
    demo_data.write_scans(data, out / "scans")
    _log.info("training on %s: ratios and %g %% marks, no outlines", cases, MARK_PERCENT)
    _train(cases, out / "run", epochs)
    _export(out / "run", out / "model")
    _infer(out)
    block = slice(demo_data.HELD_OUT.start, demo_data.HELD_OUT.stop)
    predicted = _labels(out / "masks")
    _draw(np.asarray(data.scan.pixels)[block], data.labels[block], predicted, out / "result.png")
    _show(out, data.labels[block], predicted)


def _clear(out: Path) -> None:
    """Empty a former demo's folder; anything else that holds files is somebody's and stays."""
    marker = out / MARKER
    if out.is_dir() and any(out.iterdir()) and not marker.is_file():
        raise WssegError(f"{out} holds files that no demo wrote: choose another --out")
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    marker.touch()


def _train(cases: Path, run: Path, epochs: int) -> None:
    from wsseg.cli.train import run_training

    run_training(
        cases,
        run,
        network="mobilenet_v2",
        size=NETWORK_SIZE,
        epochs=epochs,
        learning_rate=1e-3,
        accelerator="cpu",
    )


def _export(run: Path, model: Path) -> None:
    from wsseg.cli.export import run_export
    from wsseg.export.tensorrt import TensorRTMissingError

    flags = {"trt": True, "batch": "1,8,32", "image_size": "64,256,512", "name": "mni152-tissues"}
    try:
        run_export(run, model, flags)
    except (TensorRTMissingError, SomeFailedError) as error:
        _log.warning("going on with the ONNX files: %s", error)


def _infer(out: Path) -> None:
    from wsseg.cli.infer import run_inference

    code = run_inference(
        [out / "scans"],
        model=out / "model",
        report=out / "ratios.csv",
        masks=out / "masks",
        overlays=out / "overlays",
        engine={"device": "cpu"},
    )
    if code:
        raise AllFailedError(f"the demo's inference ended with code {code}: see {out}")


def _draw(
    pixels: "NDArray[np.float32]",
    truth: "NDArray[np.uint8]",
    predicted: "NDArray[np.uint8]",
    path: Path,
) -> None:
    """Write rows of scan, truth and result. All three (slice, row, column), one grid."""
    import numpy as np
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from wsseg.cli.demo_data import CLASSES
    from wsseg.imaging.definitions import label_colours

    figure = Figure(figsize=(7.5, 3.2 * len(SHOWN)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(SHOWN), 3)
    for row, index in zip(axes, SHOWN, strict=True):
        for axis, labels in zip(row, (None, truth, predicted), strict=True):
            axis.imshow(pixels[index], cmap="gray")
            if labels is not None:
                opacity = OPACITY * (labels[index] > 0)
                axis.imshow(np.dstack((label_colours(labels[index]), opacity.astype(np.uint8))))
            axis.set_axis_off()
    for axis, title in zip(axes[0], ("scan", "truth", "wsseg"), strict=True):
        axis.set_title(title)
    names = ", ".join(name.replace("_", " ") for name in CLASSES)
    figure.suptitle(f"MNI152 template, held-out slices: {names} (orange, sky blue)", fontsize=10)
    figure.savefig(path, dpi=80)


def _show(out: Path, truth: "NDArray[np.uint8]", predicted: "NDArray[np.uint8]") -> None:
    """Print agreement of ratios and regions on the held-out slices, and where things are."""
    import numpy as np
    from rich.table import Table

    from wsseg.cli import demo_data
    from wsseg.imaging.definitions import mask_iou

    measured = read_ratios(out / "ratios.csv")
    table = Table("class", "true ratio", "predicted", "mean error", "correlation", "IoU")
    for number, name in enumerate(demo_data.CLASSES, start=1):
        true = (truth == number).mean((1, 2))
        ratios = measured["nifti"][name]
        table.add_row(
            name,
            f"{true.mean():.4f}",
            f"{ratios.mean():.4f}",
            f"{np.abs(ratios - true).mean():.4f}",
            correlation(true, ratios),
            f"{mask_iou(truth == number, predicted == number).mean():.3f}",
        )
    shown = console(highlight=False)
    shown.print(table)
    apart = max(
        float(np.abs(measured["nifti"][name] - measured["dicom"][name]).max())
        for name in demo_data.CLASSES
    )
    shown.print(
        f"{len(truth)} held-out slices of one brain template, none within "
        f"{demo_data.GAP} slices of a training slice; the same slices as NIfTI and as DICOM "
        f"differ by at most {apart:.1e} in ratio.\n"
        "One averaged brain: this shows the way from ratios to ratios.csv, not how well a "
        "network carries over to other patients.\n"
        f"ratios: {out / 'ratios.csv'}  model: {out / 'model'}  scans: {out / 'scans'}\n"
        f"label maps: {out / 'masks'}  pictures: {out / 'result.png'}, {out / 'overlays'}, "
        f"{out / 'run' / 'examples.png'}, {out / 'run' / 'curves.png'}"
    )


def read_ratios(report: Path) -> Ratios:
    """Read ratios.csv back as a user's script would."""
    import numpy as np

    found: dict[str, dict[str, list[float]]] = {"nifti": {}, "dicom": {}}
    with report.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            kind = "dicom" if row["source"].endswith(".dcm") else "nifti"
            found[kind].setdefault(row["numerator"], []).append(float(row["ratio"]))
    return {
        kind: {name: np.array(values) for name, values in ratios.items()}
        for kind, ratios in found.items()
    }


def correlation(true: "NDArray[np.float64]", measured: "NDArray[np.float64]") -> str:
    """Pearson's correlation over slices; a dash where a constant leaves it undefined."""
    import numpy as np

    if not true.std() or not measured.std():
        return "-"
    return f"{np.corrcoef(true, measured)[0, 1]:.3f}"


def _labels(folder: Path) -> "NDArray[np.uint8]":
    import numpy as np

    from wsseg.imaging.scan import FileRef, ScanRef
    from wsseg.imaging.volumes import read_volume

    path = next(folder.glob("held-out*.nii.gz"))
    ref = ScanRef("volume", (FileRef(path, path.name),))
    return np.asarray(read_volume(ref).pixels, np.uint8)
