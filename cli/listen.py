"""`wsseg listen`: a DICOM node that measures what it is sent and returns the results."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

import wsseg
from wsseg.cli.console import INTERRUPTED, CodeOption, JsonLogOption, guarded, start_logging
from wsseg.cli.measuring import (
    BatchOption,
    CoverageOption,
    DeviceOption,
    EngineOption,
    EngineSecondsOption,
    IsolateOption,
    MaxScanOption,
    MemoryOption,
    ModelOption,
    PrecisionOption,
    ReadersOption,
    ReadSecondsOption,
    SegTypeOption,
    StrictOption,
    ThreadsOption,
    TrustOption,
)
from wsseg.imaging.limits import DEFAULT_LIMITS, MIB


def listen(
    model: ModelOption,
    spool: Annotated[
        Path, typer.Option(help="Folder for all that the node holds, and for the tables.")
    ],
    aet: Annotated[str, typer.Option(help="Application entity title of the node.")] = "WSSEG",
    port: Annotated[int, typer.Option(help="Port to listen on; 0: any free one.")] = 11112,
    host: Annotated[
        str, typer.Option(help="Address to listen on; 0.0.0.0 for all of this machine.")
    ] = "127.0.0.1",
    returns: Annotated[
        list[str] | None,
        typer.Option(
            "--return",
            metavar="AE@HOST:PORT",
            help="Archive that segmentations and reports are sent to. Repeat for several. Without "
            "it they stay in the spool.",
        ),
    ] = None,
    allow_ae: Annotated[
        list[str] | None,
        typer.Option(help="Calling title that is accepted. Repeat for several. [default: all]"),
    ] = None,
    allow_from: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NETWORK",
            help="Address or network that may connect. Repeat for several. [default: all]",
        ),
    ] = None,
    tls_cert: Annotated[
        Path | None, typer.Option(help="Certificate of the node, in PEM: listen with TLS.")
    ] = None,
    tls_key: Annotated[Path | None, typer.Option(help="Its key, in PEM.")] = None,
    tls_ca: Annotated[
        Path | None,
        typer.Option(help="Authority in PEM: callers need a certificate that it signed."),
    ] = None,
    return_tls: Annotated[
        bool, typer.Option("--return-tls", help="Return results by TLS.")
    ] = False,
    settle: Annotated[
        float,
        typer.Option(min=0, help="Seconds without an instance after which a series is complete."),
    ] = 30.0,
    settle_released: Annotated[
        float,
        typer.Option(min=0, help="The same, once all who sent the series released their calls."),
    ] = 1.5,
    retry: Annotated[
        float,
        typer.Option(help="Seconds before what failed is tried again; doubled each time."),
    ] = 30.0,
    give_up: Annotated[
        float, typer.Option(min=0, help="Hours after which a result is not tried to return.")
    ] = 72.0,
    keep: Annotated[
        float,
        typer.Option(min=0, help="Hours that instances are kept after their results are back."),
    ] = 1.0,
    max_instance_mb: Annotated[int, typer.Option(min=1, help="Largest instance in MiB.")] = 2048,
    max_spool_gb: Annotated[
        float, typer.Option(help="GiB of instances that are held at most.")
    ] = 100.0,
    min_free_gb: Annotated[
        float, typer.Option(min=0, help="GiB of the disk that stay free.")
    ] = 2.0,
    max_associations: Annotated[int, typer.Option(min=1, help="Associations at once.")] = 10,
    idle: Annotated[
        float, typer.Option(help="Seconds after which a silent caller is cut off.")
    ] = 60.0,
    http_port: Annotated[
        int | None,
        typer.Option(help="Port for /healthz, /readyz and /metrics. [default: none]"),
    ] = None,
    http_host: Annotated[str, typer.Option(help="Address of that port.")] = "127.0.0.1",
    code: CodeOption = None,
    seg_type: SegTypeOption = "binary",
    device: DeviceOption = "auto",
    engine: EngineOption = "auto",
    precision: PrecisionOption = "auto",
    batch: BatchOption = 8,
    threads: ThreadsOption = 0,
    isolate: IsolateOption = True,
    engine_seconds: EngineSecondsOption = 300.0,
    readers: ReadersOption = 2,
    memory_mb: MemoryOption = 768,
    max_scan_mb: MaxScanOption = DEFAULT_LIMITS.scan_bytes // MIB,
    read_seconds: ReadSecondsOption = DEFAULT_LIMITS.seconds,
    strict: StrictOption = False,
    coverage: CoverageOption = None,
    trust: TrustOption = None,
    json_log: JsonLogOption = False,
    verbose: Annotated[bool, typer.Option("--verbose", help="Log details.")] = False,
) -> None:
    """Receive DICOM series, measure each, and return segmentations and reports.

    Runs until it is stopped by SIGTERM or Ctrl-C. Everything that was acknowledged is on the disk:
    after any end, the same command goes on where it was.
    """
    start_logging(as_json=json_log, verbose=verbose)
    with guarded(interrupted="what was received is in the spool, and the same command goes on"):
        exit_code = run_node(
            model,
            {
                "device": device,
                "engine": engine,
                "precision": precision,
                "threads": threads,
                "trust": tuple(trust or ()),
            },
            spool=spool,
            aet=aet,
            host=host,
            port=port,
            returns=tuple(returns or ()),
            allow_aes=tuple(allow_ae or ()),
            allow_from=tuple(allow_from or ()),
            tls_cert=tls_cert,
            tls_key=tls_key,
            tls_ca=tls_ca,
            return_tls=return_tls,
            settle=settle,
            settle_released=settle_released,
            retry=retry,
            give_up_hours=give_up,
            keep_hours=keep,
            max_instance_mb=max_instance_mb,
            max_spool_gb=max_spool_gb,
            min_free_gb=min_free_gb,
            max_associations=max_associations,
            idle_seconds=idle,
            http_port=http_port,
            http_host=http_host,
            codes=code or None,
            seg_type=seg_type,
            batch=batch,
            isolate=isolate,
            engine_seconds=engine_seconds,
            readers=readers,
            memory_mb=memory_mb,
            max_scan_mb=max_scan_mb,
            read_seconds=read_seconds,
            strict=strict,
            coverage=coverage,
        )
    raise typer.Exit(exit_code)


def run_node(model: Path, engine: dict[str, Any], *, spool: Path, **given: Any) -> int:
    """Run a node until a signal; returns the exit code: 0 after SIGTERM, 130 after Ctrl-C.

    engine: options of `wsseg.load_model`. given: options of `Model.listen`.
    """
    opened = wsseg.load_model(model, **engine)
    with _stopping() as (stop, signals):
        opened.listen(spool, stop=stop, **given)
    return INTERRUPTED if signal.SIGINT in signals else 0


@contextmanager
def _stopping() -> Iterator[tuple[threading.Event, list[int]]]:
    """Let the first SIGTERM or SIGINT set the event, and the second one end the work at once."""
    stop, signals = threading.Event(), list[int]()

    def note(number: int, _frame: object) -> None:
        signals.append(number)
        if len(signals) > 1:
            raise KeyboardInterrupt
        # In a thread: the one that is interrupted may hold the lock of the event.
        threading.Thread(target=stop.set, daemon=True).start()

    former = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop, signals
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
