"""`wsseg bench`: how fast every engine of a model is on this machine."""

from pathlib import Path
from typing import Annotated

import typer

from wsseg.cli.console import guarded, start_logging


def bench(
    model: Annotated[
        Path, typer.Argument(envvar="WSSEG_MODEL", help="Model folder that wsseg-export wrote.")
    ],
    scans: Annotated[
        list[Path] | None,
        typer.Argument(help="Scans to take slices from: files, folders, archives; else made ones."),
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="Slices the network sees at once.")] = 8,
    rounds: Annotated[
        int, typer.Option(min=1, help="Times that each engine has its turn; medians are shown.")
    ] = 5,
    side: Annotated[int, typer.Option(min=16, help="Rows and columns of made slices.")] = 512,
    device: Annotated[
        str, typer.Option(envvar="WSSEG_DEVICE", help="auto, cpu or cuda (an error elsewhere).")
    ] = "auto",
    threads: Annotated[
        int, typer.Option(min=0, help="CPU threads of the network; 0: all cores it may use.")
    ] = 0,
    torch: Annotated[
        bool, typer.Option("--torch", help="Time PyTorch's model.pt2 too, where the model has it.")
    ] = False,
) -> None:
    """Time every engine of a model folder that runs on this machine.

    The engines take turns on the same slices. Ratios are to fp32 in ONNX Runtime: 2 is twice as
    fast. Without SCANS the slices are made, which costs an engine the same time.
    """
    start_logging()
    with guarded():
        from wsseg.cli.benching import BenchOptions, compare, show
        from wsseg.cli.settings import settings

        flags = {
            "batch": batch, "rounds": rounds, "side": side, "device": device, "threads": threads,
            "torch": torch,
        }  # fmt: skip
        show(compare(model, scans or [], settings(BenchOptions, None, flags)))
