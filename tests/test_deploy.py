"""The scripts and manifests in deploy/ are what their programs accept."""

import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from typer.testing import CliRunner

from wsseg.cli.main import app
from wsseg.imaging import WssegError
from wsseg.serve.node.options import NodeOptions, check_node

DEPLOY = Path(__file__).parents[1] / "deploy"
PROBES = {"startup": "/healthz", "liveness": "/healthz", "readiness": "/readyz"}


@pytest.mark.parametrize("script", sorted(DEPLOY.glob("slurm/*.sbatch")), ids=lambda p: p.name)
def test_a_script_of_slurm_is_bash(script: Path):
    bash = shutil.which("bash")
    assert bash
    checked = subprocess.run([bash, "-n", script], capture_output=True, text=True, check=False)
    assert (checked.returncode, checked.stderr) == (0, "")


def test_the_job_of_kuberay_measures_with_all_its_workers():
    job: dict[str, Any] = yaml.safe_load((DEPLOY / "ray" / "measure.yaml").read_text())
    spec = job["spec"]
    command, *given = shlex.split(spec["entrypoint"])
    assert command == "wsseg-infer"
    assert given[given.index("--cluster") + 1] == "auto"
    options = {one for one in given if one.startswith("--")}
    said = CliRunner().invoke(app, ["infer", "--help"], terminal_width=200).output
    assert {one for one in options if one not in said} == set()
    cluster = spec["rayClusterSpec"]
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    pods = [group["template"]["spec"] for group in groups]
    assert [pod["volumes"] for pod in pods] == [pods[0]["volumes"]] * 2
    containers = [pod["containers"][0] for pod in pods]
    for name in ("image", "env", "volumeMounts"):
        assert containers[0][name] == containers[1][name]
    pinned = (DEPLOY.parent / "constraints.txt").read_text()
    assert f"\nray=={cluster['rayVersion']}\n" in pinned


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


def listen_options(words: list[str]) -> dict[str, Any]:
    """What `wsseg listen` understands of its arguments; it ends with an error where it does not."""
    group: Any = typer.main.get_command(app)
    params: dict[str, Any] = group.commands["listen"].make_context("listen", words).params
    # As the node checks them.
    given = {"allow_from": params["allow_from"], "returns": params["returns"]}
    given |= {name: params[name] for name in ("aet", "host", "port", "http_port", "spool")}
    check_node(NodeOptions(**given))
    return params


def unit() -> dict[str, list[str]]:
    """The settings of the node's unit, each with its values in order."""
    settings: dict[str, list[str]] = {}
    for line in (DEPLOY / "systemd" / "wsseg-listen.service").read_text().splitlines():
        if line and line[0] not in "#[":
            name, _, value = line.partition("=")
            settings.setdefault(name, []).append(value)
    return settings


def test_the_unit_starts_a_node_that_only_this_site_reaches():
    settings = unit()
    environment = dict(
        line.split("=", 1)
        for line in (DEPLOY / "systemd" / "listen.env").read_text().splitlines()
        if not line.startswith("#")
    )
    (command,) = settings["ExecStart"]
    program, name, *words = shlex.split(
        command.replace("$WSSEG_LISTEN", environment["WSSEG_LISTEN"])
    )
    assert (Path(program).name, name) == ("wsseg", "listen")
    params = listen_options([*words, "--model", environment["WSSEG_MODEL"]])
    assert params["allow_from"]
    assert set(params["allow_from"]) <= set(settings["IPAddressAllow"])
    assert params["spool"] == Path("%S/wsseg/spool")
    assert settings["StateDirectory"] == ["wsseg"]
    # Nothing would change by starting anew what was given wrong options.
    assert settings["RestartPreventExitStatus"] == [str(WssegError.exit_code)]


def test_systemd_accepts_the_unit_and_finds_it_little_exposed(tmp_path: Path):
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("systemd is not installed here")
    copy = tmp_path / "wsseg-listen.service"
    # wsseg is not installed where the unit expects it.
    text = (DEPLOY / "systemd" / copy.name).read_text()
    copy.write_text(text.replace("/opt/wsseg/bin/wsseg", shutil.which("true") or ""))
    for how in (("verify", "--man=no"), ("security", "--offline=true", "--threshold=20")):
        done = subprocess.run([analyze, *how, copy], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        assert copy.name not in done.stderr


def test_the_pod_of_the_node_is_probed_where_it_answers():
    documents = list(yaml.safe_load_all((DEPLOY / "kubernetes" / "listen.yaml").read_text()))
    by_kind = {document["kind"]: document for document in documents}
    assert len(by_kind) == len(documents)
    spec = by_kind["Deployment"]["spec"]
    (container,) = spec["template"]["spec"]["containers"]
    assert container["command"] == ["wsseg", "listen"]
    params = listen_options(container["args"])
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports == {"dicom": params["port"], "http": params["http_port"]}
    probes = {name: container[f"{name}Probe"]["httpGet"] for name in PROBES}
    assert {name: probe["path"] for name, probe in probes.items()} == PROBES
    assert {probe["port"] for probe in probes.values()} == {"http"}
    # One node a spool, and what it acknowledged outlives the pod.
    assert (spec["replicas"], spec["strategy"]["type"]) == (1, "Recreate")
    mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
    (spool,) = (
        volume["persistentVolumeClaim"]["claimName"]
        for volume in spec["template"]["spec"]["volumes"]
        if volume["name"] == mounts[str(params["spool"].parent)]
    )
    claim = by_kind["PersistentVolumeClaim"]
    assert claim["metadata"]["name"] == spool
    gib = int(claim["spec"]["resources"]["requests"]["storage"].removesuffix("Gi"))
    assert params["max_spool_gb"] < gib
    assert container["resources"]["limits"]["memory"]
    selector = by_kind["Service"]["spec"]["selector"]
    assert selector.items() <= spec["template"]["metadata"]["labels"].items()
    (allowed,) = by_kind["NetworkPolicy"]["spec"]["ingress"][0]["from"]
    assert [allowed["ipBlock"]["cidr"]] == params["allow_from"]
