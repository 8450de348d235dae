"""What the numbers of label maps mean, in a file that other programs read beside them."""

import json
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
from wsseg.imaging.files import atomic

JSON_NAME = "labels.json"
TABLE_NAME = "labels.txt"


def write_legend(
    folder: Path, classes: Sequence[str], codes: Mapping[str, ClassCodes], model: str, sha256: str
) -> None:
    """Write `labels.json` and `labels.txt`, which hold for all label maps of a folder.

    The first is metadata of segments as dcmqi's itkimage2segimage takes it, the second a table of
    colours as ITK-SNAP reads it.
    """
    colours = label_colours(np.arange(1, len(classes) + 1, dtype=np.uint8)).tolist()
    segments = []
    lines = ['0 0 0 0 0 0 0 "Clear Label"']
    for label, (name, colour) in enumerate(zip(classes, colours, strict=True), start=1):
        stated = codes.get(name, NOTHING_STATED)
        segment: dict[str, Any] = {
            "labelID": label,
            "SegmentLabel": name,
            "SegmentDescription": name,
            "SegmentAlgorithmType": "AUTOMATIC",
            "SegmentAlgorithmName": f"{model} sha256:{sha256[:16]}",
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
        "SeriesDescription": f"wsseg {model}"[:64],
        "SeriesNumber": "9000",
        "InstanceNumber": "1",
        "segmentAttributes": [segments],
    }
    with atomic(folder / JSON_NAME) as partial:
        partial.write_text(json.dumps(metadata, indent=2, ensure_ascii=False) + "\n", "utf-8")
    with atomic(folder / TABLE_NAME) as partial:
        partial.write_text("\n".join(lines) + "\n", "utf-8")


def _code(code: Code) -> dict[str, str]:
    return {
        "CodeValue": code.value,
        "CodingSchemeDesignator": code.scheme,
        "CodeMeaning": code.meaning,
    }
