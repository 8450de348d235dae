"""The figures of the code's structure, on made checkouts."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

from bench import structure_trace
from bench.structure import arrows, body_lines, circles, import_graph, imported, read_product


def write(checkout: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = checkout / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return checkout


@pytest.mark.parametrize(
    ("uses", "counted"),
    [("", []), ("_f()", ["_f"]), ("_f\n_f", []), ("x._f", ["_f"]), ("from m import _f", ["_f"])],
)
def test_a_private_helper_counts_if_one_place_in_its_file_names_it(tmp_path, uses, counted):
    (module,) = read_product(write(tmp_path, {"train/a.py": f"def _f(): ...\n{uses}\n"}))
    assert list(module.helpers_used_once()) == counted


def test_methods_are_helpers_and_nested_or_special_or_public_functions_are_not(tmp_path):
    text = """
class A:
    def _method(self): ...
    def __len__(self): return self._method()
def public():
    def _nested(): ...
    return _nested
public, A.__len__
"""
    (module,) = read_product(write(tmp_path, {"train/a.py": text}))
    assert list(module.helpers_used_once()) == ["_method"]


def test_the_lines_of_a_body_leave_out_signature_and_docstring():
    text = 'def f(\n    a,\n):\n    """Two\n\n    lines."""\n    b = a\n\n    return b\n'
    (function,) = ast.parse(text).body
    assert isinstance(function, ast.FunctionDef)
    assert body_lines(function) == 3


def test_a_module_is_named_as_it_is_imported_and_the_api_is_the_package_itself(tmp_path):
    paths = ["api/__init__.py", "api/model.py", "train/__init__.py", "train/losses/area.py"]
    modules = read_product(write(tmp_path, dict.fromkeys(paths, '"""Nothing."""\n')))
    assert [(module.name, module.is_docstring) for module in modules] == [
        ("wsseg.train", True),
        ("wsseg.train.losses.area", True),
        ("wsseg", True),
        ("wsseg.model", True),
    ]


def test_arrows_stay_inside_a_room_and_those_inside_a_sub_package_vanish_in_the_second_figure(
    tmp_path,
):
    write(
        tmp_path,
        {
            "imaging/scan.py": "",
            "train/a.py": "from wsseg.train.losses import area, crf",
            "train/losses/area.py": "import wsseg.train.losses.crf\nimport wsseg.imaging.scan",
            "train/losses/crf.py": "def f():\n    from wsseg.train.a import g",
        },
    )
    modules = read_product(tmp_path)
    # a -> area, a -> crf, area -> crf, crf -> a; then a -> losses, losses -> a.
    assert arrows(modules, import_graph(modules, lazy=True), "train") == (4, 2)


def test_a_circle_closed_by_an_import_in_a_function_or_for_types_is_none_while_importing(tmp_path):
    late = "def f():\n    import wsseg.train.a\nif TYPE_CHECKING:\n    import wsseg.train.a\n"
    write(tmp_path, {"train/a.py": "import wsseg.train.b", "train/b.py": late})
    modules = read_product(tmp_path)
    assert circles(import_graph(modules, lazy=False)) == []
    assert circles(import_graph(modules, lazy=True)) == [("wsseg.train.a", "wsseg.train.b")]


def test_an_import_from_a_module_names_the_module_and_one_from_a_package_the_module_in_it():
    known = {"wsseg", "wsseg.train", "wsseg.train.one", "wsseg.train.two"}
    text = "from wsseg.train import one\nfrom wsseg.train.two import name\nimport json"
    assert imported(ast.walk(ast.parse(text)), known) == {"wsseg.train.one", "wsseg.train.two"}


MAIN = """
import sys
from concurrent.futures import ThreadPoolExecutor
from json import JSONEncoder
from pathlib import Path
from wsseg.imaging import after, before, between, first, thread
def main():
    before.f()
    table = first.read(sys.argv[1])
    with ThreadPoolExecutor() as pool:
        pool.submit(thread.f).result()
    import wsseg.imaging.late
    between.f()
    JSONEncoder().encode(table)
    after.f()
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A product whose command reads a table, starts a thread, imports and encodes."""
    plain = "def f(): return 1"
    names = ("before", "thread", "between", "after", "imported")
    files = {f"imaging/{name}.py": plain for name in names}
    files["imaging/late.py"] = "from wsseg.imaging import imported\nX = imported.f()"
    files["imaging/first.py"] = "def read(name):\n    with open(name) as file: return file.read()"
    write(tmp_path, {**files, "cli/main.py": MAIN, "cases.csv": "image"})
    (tmp_path / ".typing/wsseg").mkdir(parents=True)
    for room in ("imaging", "cli"):
        (tmp_path / ".typing/wsseg" / room).symlink_to(f"../../{room}")
    return tmp_path


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ([], ["after", "before", "between", "first", "thread"]),
        (
            ["--from", "cases.csv", "--until", "json:JSONEncoder.encode"],
            ["between", "first", "thread"],
        ),
    ],
)
def test_files_at_work_ran_a_function_of_theirs_while_the_window_was_open(checkout, options, names):
    out, script = checkout / "out.json", str(structure_trace.__file__)
    command = [sys.executable, "-P", script, str(checkout), str(out), *options, "--", "cases.csv"]
    path = {"PYTHONPATH": str(checkout / ".typing")}
    subprocess.run(command, check=True, cwd=checkout, env=path)
    assert json.loads(out.read_text()) == [
        "cli/main.py",
        *(f"imaging/{name}.py" for name in names),
    ]
