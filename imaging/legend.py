"""What the numbers of label maps mean, in a file that other programs read beside them."""

import json
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from wsseg.imaging.definitions import label_colours
from wsseg.imaging.dicom.codes import (
    NOTHING_STATED,
    UNSTATED_CATEGORY,
    ClassCodes,
    Code,
    type_of,
)
from wsseg.imaging.dicom.seg_writer import LONGEST, long_string
from wsseg.imaging.errors import WssegError
from wsseg.imaging.files import atomic

JSON_NAME = "labels.json"
TABLE_NAME = "labels.txt"


def write_legend(
    folder: Path, classes: Sequence[str], codes: Mapping[str, ClassCodes], model: str, sha256: str
) -> None:
    """Write `labels.json` and `labels.txt`, which hold for all label maps of a folder.

    The first is metadata of segments as dcmqi's itkimage2segimage takes it. The program refuses
    text that is not ASCII, so that names have no accents there. The second is a table of colours as
    ITK-SNAP reads it, with the names as they are. Raises WssegError if they cannot be written.
    """
    colours = label_colours(np.arange(1, len(classes) + 1, dtype=np.uint8)).tolist()
    digest = f" sha256:{sha256[:16]}"
    segments = []
    lines = ['0 0 0 0 0 0 0 "Clear Label"']
    for label, (name, colour) in enumerate(zip(classes, colours, strict=True), start=1):
        stated = codes.get(name, NOTHING_STATED)
        segment: dict[str, Any] = {
            "labelID": label,
            "SegmentLabel": _plain(name),
            "SegmentDescription": _plain(name),
            "SegmentAlgorithmType": "AUTOMATIC",
            "SegmentAlgorithmName": f"{_plain(model, LONGEST - len(digest))}{digest}",
            "SegmentedPropertyCategoryCodeSequence": _code(stated.category or UNSTATED_CATEGORY),
            "SegmentedPropertyTypeCodeSequence": _code(type_of(name, codes)),
            "recommendedDisplayRGBValue": colour,
        }
        if stated.anatomy:
            segment["AnatomicRegionSequence"] = _code(stated.anatomy)
        segments.append(segment)
        quoted = name.replace('"', "'")
        lines.append(f'{label} {" ".join(map(str, colour))} 1 1 1 "{quoted}"')
    metadata = {
        "ContentCreatorName": "wsseg",
        "ClinicalTrialSeriesID": "",
        "ClinicalTrialTimePointID": "",
        "SeriesDescription": _plain(f"wsseg {model}"),
        "SeriesNumber": "9000",
        "InstanceNumber": "1",
        "segmentAttributes": [segments],
    }
    texts = {JSON_NAME: json.dumps(metadata, indent=2), TABLE_NAME: "\n".join(lines)}
    for file, text in texts.items():
        try:
            with atomic(folder / file) as partial:
                partial.write_text(f"{text}\n", "utf-8")
        except OSError as error:
            raise WssegError(
                f"{folder / file}, which says what label maps mean, cannot be written: "
                f"{error.strerror}; make room, or choose another folder for --masks"
            ) from error


def _code(code: Code) -> dict[str, str]:
    return {
        "CodeValue": code.value,
        "CodingSchemeDesignator": code.scheme,
        "CodeMeaning": _plain(code.meaning),
    }


def _plain(text: str, length: int = LONGEST) -> str:
    """Text in ASCII, as DICOM allows it in a long string (LO)."""
    letters = (c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))
    return long_string("".join(letters).encode("ascii", "replace").decode())[:length].rstrip()
