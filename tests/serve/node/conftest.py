"""A node in this process, an archive that results return to, and series to send."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.uid import ExplicitVRLittleEndian, generate_uid
from pynetdicom import AE, evt
from pynetdicom.sop_class import (  # type: ignore[attr-defined]
    ComprehensiveSRStorage,
    EnhancedSRStorage,
    MRImageStorage,
    SegmentationStorage,
)

import wsseg
from tests.imaging.conftest import _write_dicom
from tests.serve.conftest import picture
from wsseg.serve.node.node import Ports

PATIENT = "Canary^Node"
PATIENCE = 30.0
"""Seconds after which a test gives up waiting; a machine may be busy."""


def until(condition: Callable[[], Any], what: str) -> Any:
    """The first true value of the condition."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        if found := condition():
            return found
        time.sleep(0.02)
    raise AssertionError(f"waited in vain for {what}")


def write_series(folder: Path, name: str, count: int = 3, **elements: Any) -> list[Path]:
    """An MR series of this name, in which every slice shows something."""
    return [
        _write_dicom(
            folder / f"{name}-{index}.dcm",
            picture(index + 1).astype(np.int16),
            **{
                "Rows": 24,
                "Columns": 40,
                "Modality": "MR",
                "SOPClassUID": MRImageStorage,
                "SOPInstanceUID": generate_uid(entropy_srcs=[name, str(index)]),
                "SeriesInstanceUID": generate_uid(entropy_srcs=[name]),
                "StudyInstanceUID": generate_uid(entropy_srcs=[name, "study"]),
                "PatientName": PATIENT,
                "ImagePositionPatient": [0.0, 0.0, 3.0 * index],
                "InstanceNumber": index + 1,
            }
            | elements,
        )
        for index in range(count)
    ]


def send(port: int, files: Sequence[Path], **options: Any) -> list[int]:
    """Send files by C-STORE in one association; returns the status of each, -1 for no answer."""
    entity = AE(ae_title=options.pop("calling", "TEST"))
    entity.add_requested_context(MRImageStorage, ExplicitVRLittleEndian)
    association = entity.associate(
        "127.0.0.1", port, ae_title=options.pop("called", "WSSEG"), **options
    )
    if not association.is_established:
        return []
    statuses = [
        association.send_c_store(pydicom.dcmread(file)).get("Status", -1)
        for file in files
        if association.is_established
    ]
    association.release()
    return statuses


class Archive:
    """A storage SCP of some kinds of objects in one syntax, which keeps what it gets; `answers` are
    given first, then 0."""

    def __init__(
        self,
        port: int = 0,
        *,
        kinds: Sequence[str] = (SegmentationStorage, ComprehensiveSRStorage, EnhancedSRStorage),
        syntax: str = ExplicitVRLittleEndian,
    ) -> None:
        self.got: list[pydicom.Dataset] = []
        self.answers: list[int] = []
        entity = AE(ae_title="PACS")
        for sop_class in kinds:
            entity.add_supported_context(sop_class, syntax)
        self.entity = entity
        self.port = port
        self._server: Any = None

    def start(self) -> "Archive":
        self._server = self.entity.start_server(
            ("127.0.0.1", self.port), block=False, evt_handlers=[(evt.EVT_C_STORE, self._store)]
        )
        self.port = self._server.server_address[1]
        return self

    def stop(self) -> None:
        if self._server:
            self._server.shutdown()
            self._server = None

    def _store(self, event: evt.Event) -> int:
        answer = self.answers.pop(0) if self.answers else 0
        if answer == 0:
            self.got.append(event.dataset)
        return answer

    def of(self, files: Sequence[Path]) -> list[pydicom.Dataset]:
        """What came of the series of these files."""
        study = pydicom.dcmread(files[0], specific_tags=["StudyInstanceUID"]).StudyInstanceUID
        return [each for each in self.got if each.StudyInstanceUID == study]


@contextmanager
def node(model: Path, spool: Path, **options: Any) -> Iterator[Ports]:
    """A node that runs while the block does."""
    stop, ready = threading.Event(), threading.Event()
    ports: list[Ports] = []
    errors: list[BaseException] = []

    def on_ready(found: Ports) -> None:
        ports.append(found)
        ready.set()

    def run() -> None:
        defaults: dict[str, Any] = {
            "port": 0,
            "settle_released": 0.02,
            "retry": 0.2,
            "min_free_gb": 0.001,
        }
        try:
            wsseg.load_model(model, device="cpu", engine="onnxruntime").listen(
                spool, stop=stop, on_ready=on_ready, **(defaults | options)
            )
        except BaseException as error:
            errors.append(error)
            ready.set()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        assert ready.wait(PATIENCE)
        if errors:
            raise errors[0]
        yield ports[0]
    finally:
        stop.set()
        thread.join(PATIENCE)
    assert not errors, errors


@pytest.fixture(scope="module")
def archive() -> Iterator[Archive]:
    """An archive that takes everything."""
    running = Archive().start()
    yield running
    running.stop()
