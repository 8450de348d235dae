"""What is said of a setting that does not exist or cannot have that value."""

from pathlib import Path

from tests.cli.conftest import call


def test_an_unknown_setting_names_its_nearest_neighbour(tmp_path: Path):
    (tmp_path / "run.toml").write_text("epoch = 3\n")
    (tmp_path / "cases.csv").write_text("image,ratio\n")
    said = call(
        "train", tmp_path / "cases.csv", "--out", tmp_path / "run", "--config",
        tmp_path / "run.toml", code=2,
    )  # fmt: skip
    assert "did you mean epochs?" in said


def test_a_value_that_no_setting_has_is_told_with_those_that_it_has(tmp_path: Path):
    (tmp_path / "cases.csv").write_text("image,ratio\n")
    said = call(
        "train", tmp_path / "cases.csv", "--out", tmp_path / "run", "--network", "resnet5", code=2
    )
    assert said.strip() == (
        "error: options: network: resnet5 is none of resnet50, resnet101, mobilenet_v3_large, "
        "mobilenet_v2; did you mean resnet50?"
    )


def test_a_value_unlike_any_is_not_guessed_at(tmp_path: Path):
    (tmp_path / "cases.csv").write_text("image,ratio\n")
    said = call(
        "train", tmp_path / "cases.csv", "--out", tmp_path / "run", "--accelerator", "gpu", code=2
    )
    assert said.strip() == "error: options: accelerator: gpu is none of auto, cpu, cuda"


def test_a_fraction_in_percent_is_told_with_what_to_write(tmp_path: Path):
    (tmp_path / "run.toml").write_text('[[terms]]\nkind = "tag_size"\nsmallest = 4.2\n')
    (tmp_path / "cases.csv").write_text("image,ratio\n")
    said = call(
        "train", tmp_path / "cases.csv", "--out", tmp_path / "run", "--config",
        tmp_path / "run.toml", code=2,
    )  # fmt: skip
    assert "found 4.2; if this is in percent, write 0.042" in said


def test_a_setting_that_our_own_check_refuses_is_told_in_its_words_alone(tmp_path: Path):
    (tmp_path / "run.toml").write_text("[window]\nlow = 240\nhigh = -160\n")
    (tmp_path / "cases.csv").write_text("image,ratio\n")
    said = call(
        "train", tmp_path / "cases.csv", "--out", tmp_path / "run", "--config",
        tmp_path / "run.toml", code=2,
    )  # fmt: skip
    assert said.strip().endswith("run.toml: window: window low 240.0 must be below high -160.0")


def test_two_recipes_at_once_are_refused(tmp_path: Path):
    (tmp_path / "run.toml").write_text('[[terms]]\nkind = "weak_mark"\n')
    (tmp_path / "cases.csv").write_text("image,ratio\n")
    said = call(
        "train", tmp_path / "cases.csv", "--out", tmp_path / "run", "--config",
        tmp_path / "run.toml", "--preset", "wsseg", code=2,
    )  # fmt: skip
    assert "two recipes: leave one out" in said


def test_a_flag_for_a_term_that_the_recipe_has_not_is_refused(tmp_path: Path):
    (tmp_path / "cases.csv").write_text("image,ratio\n")
    said = call(
        "train", tmp_path / "cases.csv", "--out", tmp_path / "run", "--mark-average", "mark", code=2
    )
    assert "weak_mark, which wsseg has not" in said
