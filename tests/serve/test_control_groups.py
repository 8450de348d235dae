"""The limits of containers and services are found in both versions of control groups."""

from pathlib import Path

import pytest

from wsseg.serve.engines import hardware


@pytest.fixture
def groups(tmp_path, monkeypatch):
    """Writes what the system tells: the groups of this process, and files of limits."""
    monkeypatch.setattr(hardware, "GROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(hardware, "OWN_GROUP", tmp_path / "own")

    def told(own: str, files: dict[str, str]) -> None:
        (tmp_path / "own").write_text(own)
        for name, text in files.items():
            file: Path = tmp_path / "cgroup" / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)

    return told


@pytest.mark.parametrize(
    ("text", "cores"), [("200000 100000\n", 2), ("50000 100000\n", 0.5), ("max 100000\n", None)]
)
def test_a_containers_limit(groups, text, cores):
    groups("0::/\n", {"cpu.max": text})
    assert hardware.cgroup_cpus() == cores


def test_the_least_of_a_service_and_the_groups_above_it(groups):
    groups(
        "0::/system.slice/wsseg.service\n",
        {
            "system.slice/wsseg.service/cpu.max": "400000 100000\n",
            "system.slice/cpu.max": "300000 100000\n",
        },
    )
    assert hardware.cgroup_cpus() == 3


@pytest.mark.parametrize(("most", "cores"), [("150000", 1.5), ("-1", None)])
def test_the_first_version_whose_path_is_the_hosts(groups, most, cores):
    groups(
        "12:memory:/docker/ab\n4:cpu,cpuacct:/docker/ab\n",
        {"cpu/cpu.cfs_quota_us": f"{most}\n", "cpu/cpu.cfs_period_us": "100000\n"},
    )
    assert hardware.cgroup_cpus() == cores


def test_other_systems_limit_nothing(monkeypatch, tmp_path):
    monkeypatch.setattr(hardware, "OWN_GROUP", tmp_path / "nowhere")
    assert hardware.cgroup_cpus() is None
