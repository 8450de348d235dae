"""The model card, `card.json`: the facts of `model.json` in the form that RSNA ATLAS asks for."""

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from wsseg.imaging.definitions import RatioDefinition
from wsseg.serve.manifest import Manifest
from wsseg.serve.model_info import INTENDED_USE, NOT_INTENDED, limits_of

FILE_NAME = "card.json"
SCHEMA = "https://atlas.rsna.org/schemas/2025-11/model.json"
"""The version of the ATLAS schema whose keys are used. It asks for a name of 4 to 256 characters,
keywords of 2 to 64, uses of 4 to 64, and a link."""

_LONGEST_NAME, _LONGEST_KEYWORD = 256, 64
# DICOM's modalities, and the terms of RadLex that ATLAS takes for them.
_MODALITIES = {
    "CR": "Computed radiography (RID10349)",
    "CT": "Computed tomography (RID10321)",
    "DX": "Digital radiography (RID10351)",
    "MG": "Mammography (RID10357)",
    "MR": "Magnetic resonance imaging (RID10312)",
    "NM": "Nuclear medicine imaging (RID10330)",
    "PT": "Positron emission tomography (RID10337)",
    "US": "Ultrasound (RID10326)",
}
_OTHER_MODALITY = "Other modality (dicom) (RID49585)"


def write_card(folder: Path, manifest: Manifest) -> None:
    """Write the card of a model into its folder."""
    text = json.dumps(model_card(manifest), indent=2, ensure_ascii=False) + "\n"
    (folder / FILE_NAME).write_text(text, encoding="utf-8")


def model_card(manifest: Manifest) -> dict[str, Any]:
    """The card of a model.

    What a manifest does not know (authors, licence, a place to get the model) is left out: whoever
    publishes the model adds it. The link, which ATLAS requires, names the first engine file by its
    SHA-256 (RFC 6920) until there is an address.
    """
    card: dict[str, Any] = {
        "Name": f"{manifest.name[: _LONGEST_NAME - 8]} (wsseg)",
        "Link": _content_link(manifest.engines[0].sha256),
        "Indexing": _indexing(manifest),
        "Descriptors": {
            "Date": {"Created": manifest.created[:10]},
            "Version": f"wsseg {manifest.wsseg_version}",
        },
        "Model properties": _properties(manifest),
    }
    if modalities := limits_of(manifest).modalities:
        terms = {_MODALITIES.get(each, _OTHER_MODALITY) for each in modalities}
        card["Imaging"] = {"Modalities": sorted(terms)}
    if metrics := manifest.training.metrics:
        figures = "; ".join(f"{name} {value:.4g}" for name, value in sorted(metrics.items()))
        card["Model performance"] = {
            "Metrics": ["other"],
            "Comments": f"On the validation split of the training table: {figures}.",
        }
    return {"$schema": SCHEMA, "Model": card}


def _content_link(sha256: str) -> str:
    digest = base64.urlsafe_b64encode(bytes.fromhex(sha256)).decode().rstrip("=")
    return f"ni:///sha-256;{digest}"


def _indexing(manifest: Manifest) -> dict[str, Any]:
    words = [name[:_LONGEST_KEYWORD] for name in manifest.classes if len(name) > 1]
    found: dict[str, Any] = {"Keywords": list(dict.fromkeys([*words, "area ratio"]))}
    codes = [
        code
        for each in manifest.codes.values()
        for code in (each.type, each.anatomy)
        if code is not None
    ]
    snomed = {int(c.value) for c in codes if c.scheme == "SCT" and c.value.isdecimal()}
    radlex = {c.value for c in codes if c.scheme == "RADLEX" and c.value.startswith("RID")}
    if snomed:
        found["SNOMED"] = sorted(snomed)
    if radlex:
        found["RadLex"] = sorted(radlex)
    return found


def _properties(manifest: Manifest) -> dict[str, Any]:
    training = manifest.training
    thresholds = zip(manifest.classes, manifest.thresholds, strict=True)
    kind = "grey" if manifest.channels == 1 else "colour"
    return {
        "Architecture": f"Convolutional neural network ({training.network}), trained with the "
        f"preset {training.preset}",
        "Decision threshold": "; ".join(f"{name} {value:g}" for name, value in thresholds),
        "Indications for use": f"None. {INTENDED_USE}",
        "Input": f"Slices of {kind} medical images, of any size",
        "Limitations": " ".join([f"Not for: {NOT_INTENDED}", *limits_of(manifest).sentences]),
        "Output": {"Description": " ".join(_outputs(manifest.ratios))},
        "Regulatory information": {"Authorization status": "None; not a medical device"},
        "Use": {"Intended": ["Semantic segmentation"], "Excluded": ["Diagnosis", "Treatment"]},
        "User": {"Intended": ["Researcher"]},
    }


def _outputs(ratios: tuple[RatioDefinition, ...]) -> Iterator[str]:
    yield "A mask and an area for each class."
    for ratio in ratios:
        yield f"Ratio {ratio.name}: pixels of {ratio.numerator} over those of {ratio.denominator}."
