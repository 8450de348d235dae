"""`wsseg info`: what programs read instead of the documentation."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

import wsseg
from tests.cli.conftest import call
from tests.serve.conftest import make_manifest, write_model
from wsseg.cli.info import EXIT_CODES
from wsseg.imaging.definitions import Dependence
from wsseg.imaging.dicom.codes import ClassCodes, parse_code
from wsseg.imaging.errors import AllFailedError, NothingToDoError, SomeFailedError, WssegError

SERVING = Path(__file__).parents[2] / "docs" / "serving.md"


def told(*arguments: object) -> dict[str, Any]:
    content = json.loads(call("info", *arguments, "--json"))
    assert isinstance(content, dict)
    return content


def test_a_model_tells_classes_ratios_engines_and_intended_use(tmp_path: Path):
    codes = {"bright": ClassCodes(type=parse_code("SCT:52988006"))}
    found = told(write_model(tmp_path / "model", b"content", codes=codes))
    assert [(each["name"], each["label"], each["threshold"]) for each in found["classes"]] == [
        ("bright", 1, 0.5),
        ("brightest", 2, 0.5),
    ]
    assert found["classes"][0]["type"]["value"] == "52988006"
    assert found["classes"][1]["type"]["scheme"] == "99WSSEG"
    assert [(each["name"], each["unit"], each["largest"]) for each in found["ratios"]] == [
        ("bright", "1", 1),
        ("brightest in bright", "1", None),
        ("brightest of all", "1", 1),
    ]
    (engine,) = found["engines"]
    assert (engine["file"], engine["file_bytes"], engine["compared"]) == ("model.onnx", 7, True)
    assert engine["here"]["onnxruntime on CPU"] is None
    assert "not a medical device" in found["intended_use"]


def test_every_command_can_log_for_machines():
    commands = told()["commands"]
    assert [name for name, each in commands.items() if "--json-log" not in json.dumps(each)] == []


def test_the_limits_of_a_model_say_what_is_not_known_of_it(tmp_path: Path):
    found = told(write_model(tmp_path / "model", b"content"))["limits"]
    text = " ".join(found["sentences"])
    assert found["network_size"] == 64
    assert "no intervals for bright, brightest in bright, brightest of all" in text
    assert "modalities of its training images are not recorded" in text


def test_a_network_that_ignores_the_image_is_told_among_the_limits(tmp_path: Path):
    ignores = Dependence(cases=9, ignored=("bright",))
    training = make_manifest().training.model_copy(update={"dependence": ignores})
    found = told(write_model(tmp_path / "model", b"content", training=training))
    assert ignores.warning in found["limits"]["sentences"]


def test_an_engine_file_that_is_missing_has_no_size(tmp_path: Path):
    folder = write_model(tmp_path / "model", b"content")
    (folder / "model.onnx").unlink()
    assert told(folder)["engines"][0]["file_bytes"] is None


def test_a_folder_without_a_model_is_one_line_and_exit_code_2(tmp_path: Path):
    assert "holds no model.json" in call("info", tmp_path, "--json", code=2)


def test_without_a_model_it_tells_commands_options_and_engines_of_this_machine():
    found = told()
    assert found["wsseg_version"] == wsseg.__version__
    assert found["engines"]["onnxruntime on CPU"] is None
    assert {"train", "export", "infer", "cases check", "info"} <= found["commands"].keys()
    options = {each["name"]: each for each in found["commands"]["infer"]["parameters"]}
    assert options["report"]["options"] == ["--report"]
    assert (options["report"]["type"], options["report"]["default"]) == ("Path", "ratios.csv")
    assert options["inputs"]["kind"] == "argument"
    assert options["model"]["required"]
    assert options["model"]["environment"] == "WSSEG_MODEL"


def test_the_exit_codes_are_those_of_the_errors_and_of_the_documentation():
    section = SERVING.read_text("utf-8").partition("## Exit codes")[2].partition("\n## ")[0]
    assert {int(code) for code in re.findall(r"^\| (\d+) \|", section, re.MULTILINE)} == {
        *EXIT_CODES
    }
    errors = (WssegError, NothingToDoError, AllFailedError, SomeFailedError)
    assert {error.exit_code for error in errors} <= EXIT_CODES.keys()
    assert told()["exit_codes"] == {str(code): text for code, text in EXIT_CODES.items()}


@pytest.mark.parametrize("line", ["name: threshold", "ratios[0].unit: 1", "engines[0].gpu: -"])
def test_without_json_each_value_is_a_line(tmp_path: Path, line: str):
    assert line in call("info", write_model(tmp_path / "model", b"content")).splitlines()
