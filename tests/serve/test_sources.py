"""The names under which reports show files: one for each file, whatever the inputs are called."""

from pathlib import Path

import pytest
from PIL import Image

from tests.serve.conftest import RATIOS, picture, rows, run


@pytest.mark.parametrize(
    ("named", "sources"),
    [
        (["p/siteA", "p/siteB"], ["siteA/x.png", "siteB/x.png"]),
        (["p/siteA", "q/siteA"], ["p/siteA/x.png", "q/siteA/x.png"]),
        (["p/siteA/x.png", "p/siteB/x.png"], ["siteA/x.png", "siteB/x.png"]),
        (["p/siteA/x.png", "p/y.png"], ["x.png", "y.png"]),
        (["p/siteB", "p/siteA/x.png"], ["siteB/x.png", "x.png"]),
        (
            ["q/siteA", "p/siteA/x.png", "p/siteB/x.png"],
            ["siteA/x.png", "p/siteA/x.png", "siteB/x.png"],
        ),
        (["p/siteA/../siteB", "p/siteA"], ["siteB/x.png", "siteA/x.png"]),
        (["p", "p/siteB/x.png"], ["p/y.png", "p/siteA/x.png", "p/siteB/x.png"]),
    ],
)
def test_files_of_several_inputs_never_share_a_source(model: Path, tmp_path: Path, named, sources):
    for name in ("p/siteA/x.png", "p/siteB/x.png", "q/siteA/x.png", "p/y.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture(0)).save(tmp_path / name)
    run(model, tmp_path / "ratios.csv", *(tmp_path / name for name in named))
    assert [
        row["source"] for row in rows(tmp_path / "ratios.series.csv")[:: len(RATIOS)]
    ] == sources
