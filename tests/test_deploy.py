"""The scripts and manifests in deploy/ are what their programs accept."""

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

DEPLOY = Path(__file__).parents[1] / "deploy"


@pytest.mark.parametrize("script", sorted(DEPLOY.glob("slurm/*.sbatch")), ids=lambda p: p.name)
def test_a_script_of_slurm_is_bash(script: Path):
    bash = shutil.which("bash")
    assert bash
    checked = subprocess.run([bash, "-n", script], capture_output=True, text=True, check=False)
    assert (checked.returncode, checked.stderr) == (0, "")


def test_each_pod_of_the_job_measures_a_shard_of_all(tmp_path: Path):
    job: dict[str, Any] = yaml.safe_load((DEPLOY / "kubernetes" / "measure.yaml").read_text())
    spec = job["spec"]
    assert spec["completionMode"] == "Indexed"
    container = spec["template"]["spec"]["containers"][0]
    infer = tmp_path / "wsseg-infer"
    infer.write_text('#!/bin/sh\nfor one in "$@"; do echo "$one"; done\n')
    infer.chmod(0o755)
    for index in (0, spec["completions"] - 1):
        said = subprocess.run(
            [*container["command"], *container["args"]],
            env={"PATH": f"{tmp_path}:/usr/bin:/bin", "JOB_COMPLETION_INDEX": str(index)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.splitlines()
        assert said[said.index("--shard") + 1] == f"{index + 1}/{spec['completions']}"
        assert said[said.index("--report") + 1] == f"/results/parts/{index}.csv"
