"""Libraries that would report their use are stopped before they are imported."""

import os
import subprocess
import sys

import pytest

PACKAGES = ("", ".imaging", ".serve", ".train", ".export", ".cli")
TELLS = (
    "import os, sys; print(os.environ.get('ORT_DISABLE_TELEMETRY'), "
    "sys.modules.get('openvino_telemetry', 'free'))"
)


def said(program: str, **environment: str) -> subprocess.CompletedProcess[str]:
    clean = {name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ}
    return subprocess.run(
        [sys.executable, "-c", program],
        env=clean | environment,
        capture_output=True,
        text=True,
        check=True,
    )


@pytest.mark.parametrize("package", PACKAGES)
def test_whoever_imports_a_package_is_silent_from_then_on(package):
    assert said(f"import wsseg{package}; {TELLS}").stdout == "1 None\n"


@pytest.mark.parametrize(("value", "expected"), [("1", "None free\n"), ("0", "1 None\n")])
def test_libraries_report_where_the_user_wants_it_and_nowhere_else(value, expected):
    assert said(f"import wsseg.serve; {TELLS}", WSSEG_TELEMETRY=value).stdout == expected


def test_openvino_works_without_its_reporter():
    program = "import wsseg.serve; from openvino.tools import ovc; import openvino; print('works')"
    assert said(program).stdout == "works\n"


def test_a_library_that_came_before_is_named_with_what_to_do():
    program = "import sys, types; sys.modules['onnxruntime'] = types.ModuleType('onnxruntime'); "
    late = said(program + "import wsseg.serve").stderr
    assert "onnxruntime may report its use, because it was imported before wsseg" in late
    assert "import wsseg first" in late
    assert said("import wsseg.serve, onnxruntime, wsseg.cli").stderr == ""


def test_caches_go_where_the_user_wants_them_and_else_with_the_process(tmp_path):
    program = (
        "from wsseg.imaging.privacy import keep_caches_private as keep; keep(); import os; "
        "from pathlib import Path; folder = Path(os.environ['TRITON_CACHE_DIR']); "
        "folder.mkdir(parents=True); print(folder.parent, os.environ['MPLCONFIGDIR'])"
    )
    private, named = said(program, TMPDIR=str(tmp_path), MPLCONFIGDIR="mine").stdout.split()
    assert (private.startswith(str(tmp_path)), named) == (True, "mine")
    assert list(tmp_path.iterdir()) == []
