"""`wsseg doctor`: what works on this machine (packages, engines, devices, decoders), and why the
rest does not."""

import json
import os
import platform
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from typing import Annotated

import typer

from wsseg.cli.console import JsonLogOption, console, guarded, start_logging
from wsseg.imaging import privacy

# module, distributions that may bring it, extra of wsseg
_PACKAGES = (
    ("torch", ("torch",), "train"),
    ("torchvision", ("torchvision",), "train"),
    ("lightning_fabric", ("lightning-fabric",), "train"),
    ("onnx", ("onnx",), "export"),
    ("onnxruntime", ("onnxruntime-gpu", "onnxruntime"), None),
    ("openvino", ("openvino",), "openvino"),
    ("tensorrt", ("tensorrt",), "trt"),
    ("tensorrt_rtx", ("tensorrt-rtx",), "trt-rtx"),
    ("nilearn", ("nilearn",), "demo"),
)

JPEG_EXTENDED = "1.2.840.10008.1.2.4.51"


@dataclass(frozen=True)
class Check:
    """One line of the doctor's report."""

    subject: str
    works: bool
    finding: str


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    json_log: JsonLogOption = False,
) -> None:
    """Tell which engines, codecs and devices work here, and why the others do not."""
    start_logging(as_json=json_log)
    with guarded(prints=True):
        show(checks(), as_json=as_json)


def checks() -> list[Check]:
    """Look at everything; nothing here downloads or writes."""
    return [
        Check(
            "machine",
            True,
            f"Python {platform.python_version()}, {platform.system()} "
            f"{platform.machine()}, {os.cpu_count()} cores",
        ),
        _reports(),
        *_packages(),
        *_engines(),
        *_torch(),
        *_decoders(),
    ]


def show(found: Iterable[Check], *, as_json: bool) -> None:
    """Print the checks as a table, or as JSON for machines."""
    from rich.table import Table

    shown = console(highlight=False, markup=False)  # markup would eat the brackets of extras
    if as_json:
        shown.print_json(json.dumps([asdict(check) for check in found]))
        return
    table = Table("subject", "works", "finding", box=None, pad_edge=False)
    for check in found:
        table.add_row(check.subject, "yes" if check.works else "no", check.finding)
    shown.print(table)


def _reports() -> Check:
    reporting = privacy.reporting()
    if reporting:
        finding = f"{', '.join(reporting)} may report; {privacy.OPT_IN}=1 allows it"
    else:
        finding = f"{', '.join(privacy.LIBRARIES)} are stopped; {privacy.OPT_IN}=1 lets them"
    return Check("no library reports its use", not reporting, finding)


def _packages() -> list[Check]:
    return [_package(*package) for package in _PACKAGES]


def _package(module: str, distributions: tuple[str, ...], extra: str | None) -> Check:
    from importlib.metadata import PackageNotFoundError, version

    if find_spec(module) is None:
        remedy = f"pip install 'wsseg[{extra}]'" if extra else "reinstall wsseg"
        return Check(f"package {module}", False, f"not installed: {remedy}")
    for name in distributions:
        try:
            return Check(f"package {module}", True, f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    return Check(f"package {module}", True, "version unknown")


def _engines() -> list[Check]:
    """Every runtime that can compute a model: what `wsseg-infer --engine` would say of it."""
    from wsseg.serve.engines.select import ADAPTERS

    found = []
    for adapter in ADAPTERS:
        why = adapter.absent()
        found.append(Check(f"engine {adapter.label}", why is None, why or "can be used"))
    found.append(_integers())
    return found


def _integers() -> Check:
    from wsseg.serve.engines.hardware import INTEGER, flags, instructions

    there = sorted(instructions() & {*INTEGER})
    wanted = ", ".join(INTEGER)
    if flags() is None:
        lacking = f"unknown: this system does not tell whether the CPU has {wanted}"
    else:
        lacking = f"none of {wanted}: INT8 is not faster"
    passed_over = "--precision auto takes no INT8 that was judged with them"
    finding = ", ".join(there) if there else f"{lacking}; {passed_over}"
    return Check("INT8 on the CPU", bool(there), finding)


def _torch() -> list[Check]:
    if find_spec("torch") is None:
        return []
    import torch

    cuda = torch.cuda.is_available()
    device = torch.cuda.get_device_name() if cuda else "no CUDA device: training runs on the CPU"
    from wsseg.train.launch import has_bf16

    bf16 = has_bf16(torch.device("cuda" if cuda else "cpu"))
    reason = "used by --precision auto" if bf16 else "this hardware lacks it: training uses fp32"
    return [Check("training on CUDA", cuda, device), Check("bf16 training", bf16, reason)]


def _decoders() -> list[Check]:
    from pydicom.pixels.decoders.base import get_decoder
    from pydicom.uid import UID

    names = (
        "1.2.840.10008.1.2.4.50",
        JPEG_EXTENDED,
        "1.2.840.10008.1.2.4.57",
        "1.2.840.10008.1.2.4.70",
        "1.2.840.10008.1.2.4.80",
        "1.2.840.10008.1.2.4.90",
        "1.2.840.10008.1.2.4.91",
        "1.2.840.10008.1.2.4.201",
        "1.2.840.10008.1.2.5",
    )
    found = []
    for name in names:
        decoder = get_decoder(UID(name))
        plugins = decoder.available_plugins
        finding = ", ".join(plugins) if plugins else "no decoder: pip install 'wsseg[codecs]'"
        if plugins and name == JPEG_EXTENDED:
            finding += ", 12 bit by imagecodecs"  # pydicom's plugins read its 8-bit kind
        found.append(Check(f"DICOM {UID(name).name}", bool(plugins), finding))
    return found
