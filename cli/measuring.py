"""Options that the commands which measure have in common."""

from pathlib import Path
from typing import Annotated

import typer

ModelOption = Annotated[
    Path, typer.Option(envvar="WSSEG_MODEL", help="Model folder that wsseg-export wrote.")
]
SegTypeOption = Annotated[
    str,
    typer.Option(
        help="binary (a bit for each pixel and class, read by most programs) or labelmap "
        "(smaller; read by fewer, and not yet by 3D Slicer)."
    ),
]
DeviceOption = Annotated[
    str,
    typer.Option(envvar="WSSEG_DEVICE", help="auto, cpu or cuda (an error where it fails)."),
]
EngineOption = Annotated[
    str,
    typer.Option(
        help="auto (the fastest that agreed with PyTorch), onnxruntime, openvino, tensorrt, "
        "tensorrt-rtx, onnxruntime-tensorrt, onnxruntime-tensorrt-rtx or torch."
    ),
]
PrecisionOption = Annotated[
    str, typer.Option(help="auto (that of the fastest engine), fp32, fp16, bf16 or int8.")
]
BatchOption = Annotated[int, typer.Option(min=1, help="Slices the network sees at once.")]
ThreadsOption = Annotated[
    int, typer.Option(min=0, help="CPU threads of the network; 0: all cores it may use.")
]
IsolateOption = Annotated[
    bool,
    typer.Option(
        "--isolate/--no-isolate",
        help="Compute in a process of its own, so that an engine that hangs or crashes costs "
        "one scan.",
    ),
]
EngineSecondsOption = Annotated[
    float,
    typer.Option(
        help="Seconds without an answer to a batch after which that process counts as hung; "
        "more if the batches before were slow.",
    ),
]
ReadersOption = Annotated[int, typer.Option(min=1, help="Threads that read scans.")]
MemoryOption = Annotated[
    int,
    typer.Option(min=1, help="MiB of pixels that are held at once. A larger scan is read alone."),
]
MaxScanOption = Annotated[
    int,
    typer.Option(min=1, help="MiB of pixels that one scan may have, as 32-bit numbers."),
]
ReadSecondsOption = Annotated[
    float,
    typer.Option(
        min=0.1,
        help="Seconds to decode a compressed DICOM file, besides half a second for each MB.",
    ),
]
StrictOption = Annotated[
    bool,
    typer.Option(
        "--strict",
        help="Refuse scans that are not like the training images (other modality, unit or "
        "range of values); without it they are measured and flagged.",
    ),
]
CoverageOption = Annotated[
    float | None,
    typer.Option(
        help="Probability with which ratio_low to ratio_high holds the ratio that would have "
        "been recorded, for a model exported with --calibrate. [default: 0.9 for such a model]"
    ),
]
TrustOption = Annotated[
    list[Path] | None,
    typer.Option(
        envvar="WSSEG_TRUST",
        help="Public key (Ed25519, PEM) of those who approve models: a model that wsseg sign "
        "did not sign with its private key is refused. Repeat for several.",
    ),
]
