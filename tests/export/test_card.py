"""The model card: facts of `model.json` under the keys, and within the limits, of RSNA ATLAS."""

import base64
import json
import re
from pathlib import Path

import pytest

from tests.serve.conftest import make_manifest
from wsseg.export.card import FILE_NAME, model_card, write_card
from wsseg.imaging.definitions import Seen
from wsseg.imaging.dicom.codes import ClassCodes, parse_code

MODEL_KEYS = {
    *("Name", "Link", "Indexing", "Descriptors", "Model properties", "Imaging"),
    "Model performance",
}


def seen_on(**modalities: int):
    seen = Seen(modalities={name.strip("_"): count for name, count in modalities.items()})
    return make_manifest(training=make_manifest().training.model_copy(update={"seen": seen}))


def test_a_card_says_for_research_and_no_medical_device(tmp_path: Path):
    write_card(tmp_path, make_manifest())
    card = json.loads((tmp_path / FILE_NAME).read_text("utf-8"))
    properties = card["Model"]["Model properties"]
    assert card["$schema"].startswith("https://atlas.rsna.org/schemas/")
    assert "not a medical device" in properties["Indications for use"]
    assert "decision about a patient" in properties["Limitations"]
    assert "no intervals for bright" in properties["Limitations"]
    assert properties["Use"]["Excluded"] == ["Diagnosis", "Treatment"]


def test_modalities_are_terms_of_radlex_and_unstated_ones_are_left_out():
    assert model_card(seen_on(CT=3, XC=1, _=2))["Model"]["Imaging"]["Modalities"] == [
        "Computed tomography (RID10321)",
        "Other modality (dicom) (RID49585)",
    ]
    assert "Imaging" not in model_card(seen_on(_=2))["Model"]


def test_codes_of_the_classes_are_indexed_and_private_ones_are_not():
    codes = {
        "bright": ClassCodes(type=parse_code("SCT:52988006"), anatomy=parse_code("SCT:76752008")),
        "brightest": ClassCodes(type=parse_code("99X:7:Mine")),
    }
    found = model_card(make_manifest(codes=codes))["Model"]["Indexing"]
    assert found["SNOMED"] == [52988006, 76752008]
    assert "RadLex" not in found


def test_the_link_names_the_engine_by_its_content():
    manifest = make_manifest(b"content")
    digest = model_card(manifest)["Model"]["Link"].removeprefix("ni:///sha-256;")
    assert base64.urlsafe_b64decode(digest + "=").hex() == manifest.engines[0].sha256


@pytest.mark.parametrize("name", ["m", "m" * 400])
def test_the_card_keeps_to_the_keys_and_lengths_of_the_schema(name: str):
    ratios = ({"name": "r", "numerator": "x"},)
    card = model_card(make_manifest(name=name, classes=("x", "long" * 40), ratios=ratios))
    model = card["Model"]
    assert card.keys() == {"$schema", "Model"}
    assert model.keys() <= MODEL_KEYS
    assert 4 <= len(model["Name"]) <= 256
    assert all(2 <= len(word) <= 64 for word in model["Indexing"]["Keywords"])
    uses = [*model["Model properties"]["Use"].values(), *model["Model properties"]["User"].values()]
    assert all(4 <= len(each) <= 64 for group in uses for each in group)
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", model["Descriptors"]["Date"]["Created"])
