import pytest
from pydantic import TypeAdapter, ValidationError

from wsseg.imaging.dicom.codes import (
    ClassCodes,
    Code,
    Codes,
    check_classes,
    merged,
    parse_code,
    type_of,
)
from wsseg.imaging.errors import WssegError

LESION = Code(scheme="SCT", value="52988006", meaning="Lesion")
BREAST = Code(scheme="SCT", value="76752008", meaning="Breast")
read = TypeAdapter(Codes).validate_python


def test_a_known_code_has_the_shortest_meaning_of_the_dictionary():
    # The dictionary also has "Breast structure (body structure)".
    assert [parse_code("SCT:52988006"), parse_code("SCT:76752008")] == [LESION, BREAST]


def test_a_given_meaning_may_hold_colons_and_replaces_that_of_the_dictionary():
    assert parse_code("SCT:52988006:Läsion: links").meaning == "Läsion: links"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("SCT:999", "SCT:999:MEANING"),
        ("99SITE:7", "no dictionary of 99SITE.*99SITE:7:MEANING"),
        ("SNOMED:52988006", "write SCT"),
        ("sct:52988006", "write SCT"),
        ("lesion", "expected SCHEME:VALUE"),
        ("SCT:1:" + "x" * 65, "64 characters"),
        ("SCT:1:a\\b", "backslash"),
    ],
)
def test_a_text_that_is_no_code_is_refused_with_what_to_write(text: str, reason: str):
    with pytest.raises(ValueError, match=reason):
        parse_code(text)


def test_options_and_tables_give_the_same_codes():
    codes = {"a.b": ClassCodes(type=LESION, anatomy=BREAST)}
    assert read(["a.b=SCT:52988006", "a.b.anatomy=SCT:76752008"]) == codes
    assert read({"a.b": {"type": "SCT:52988006", "anatomy": "SCT:76752008"}}) == codes
    assert read({"x": "SCT:52988006"}) == {"x": ClassCodes(type=LESION)}


def test_codes_survive_being_written_as_json():
    codes = {"lesion": ClassCodes(type=LESION)}
    adapter = TypeAdapter(Codes)
    assert adapter.validate_json(adapter.dump_json(codes)) == codes


@pytest.mark.parametrize("texts", [["SCT:52988006"], ["a=SCT:52988006", "a.type=SCT:76752008"]])
def test_an_option_without_a_class_and_two_codes_for_one_role_are_refused(texts: list[str]):
    with pytest.raises(ValidationError, match=r"names no class|two codes"):
        read(texts)


def test_later_codes_replace_earlier_ones_role_by_role():
    base = {"a": ClassCodes(type=BREAST, anatomy=BREAST), "b": ClassCodes(type=BREAST)}
    assert merged(base, {"a": ClassCodes(type=LESION)}) == {
        "a": ClassCodes(type=LESION, anatomy=BREAST),
        "b": ClassCodes(type=BREAST),
    }


def test_a_code_of_a_class_that_does_not_exist_names_the_classes():
    with pytest.raises(WssegError, match="class leison, but the classes are lesion, fat"):
        check_classes({"leison": ClassCodes(type=LESION)}, ("lesion", "fat"))


def test_a_class_without_a_code_has_a_private_one_that_says_its_name_and_nothing_else():
    code = type_of("läsion", {"fat": ClassCodes(type=LESION)})
    assert (code.scheme, code.meaning) == ("99WSSEG", "läsion")
    assert code == type_of("läsion", {}) != type_of("fat", {})
    assert type_of("fat", {"fat": ClassCodes(type=LESION)}) == LESION


def test_a_private_code_fits_into_what_dicom_allows_whatever_the_name_of_the_class():
    code = type_of("a\\b\n" + "x" * 100, {})
    assert code.meaning.startswith("a_b_x")
    assert len(code.meaning) == 64
    assert len(code.value) <= 16
