"""The documentation names what is there: files, sections, and every module of the rooms."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = ("api", "cli", "export", "imaging", "serve", "train")
TOP = ("README.md", "CONTRIBUTING.md", "SECURITY.md")
PAGES = [*(ROOT / name for name in TOP), *sorted((ROOT / "docs").rglob("*.md"))]
ARCHITECTURE = ROOT / "docs" / "architecture.md"


def anchors(page):
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_to_a_file_and_a_section(page):
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for path, anchor in re.findall(r"\]\(([^)#]*)#?([^)]*)\)", text):
        if path.startswith("http"):
            continue
        target = page.parent / path if path else page
        assert target.exists(), path
        assert not anchor or anchor in anchors(target), f"{path}#{anchor}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_path_of_the_repository_that_a_page_names_is_there(page):
    text = page.read_text(encoding="utf-8")
    for path in re.findall(rf"`((?:{'|'.join((*ROOMS, 'tests', 'bench'))})/[\w/.*]+)`", text):
        assert any(ROOT.glob(path.rstrip("/"))), path


def listed():
    """The modules in the tables of files; a cell names the folder once for the files after it."""
    room = ""
    for line in ARCHITECTURE.read_text(encoding="utf-8").splitlines():
        if heading := re.match(r"### .*`([\w/]+)/`$", line):
            room = heading[1]
        elif line.startswith("| `"):
            folder = ""
            for name in re.findall(r"`([\w/]+\.py)`", line.split("|")[1]):
                folder = name.rpartition("/")[0] or folder
                yield f"{room}/{folder}/{name.rpartition('/')[2]}".replace("//", "/")


def test_the_architecture_lists_every_module_and_no_other():
    modules = {
        path.relative_to(ROOT).as_posix()
        for room in ROOMS
        for path in (ROOT / room).rglob("*.py")
        if path.name != "__init__.py"
    }
    assert {path for path in listed() if not path.endswith("__init__.py")} == modules
