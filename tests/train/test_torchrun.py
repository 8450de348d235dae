"""Training in processes that torchrun starts, as on several machines."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import write_outlined

ROOT = Path(__file__).parents[2]

ENTRY = """
import hashlib, os
from pathlib import Path
from unittest.mock import patch
from tests.small_network import small_network
from wsseg.cli.main import train_main
from wsseg.train import trainer

fit = trainer.fit

def told(learner, *rest):
    fit(learner, *rest)
    values = [value.numpy().tobytes() for value in learner.average.state_dict().values()]
    file = Path(os.environ["DIGESTS"], os.environ["RANK"])
    file.write_text(hashlib.sha256(b"".join(values)).hexdigest())

with small_network(), patch.object(trainer, "fit", told):
    train_main()
"""
"""wsseg-train with the small network, which writes the digest of its weights in each process."""


@pytest.mark.slow
def test_processes_of_torchrun_train_one_network_and_the_first_writes_it(tmp_path: Path):
    table = write_outlined(tmp_path, 8)
    (tmp_path / "entry.py").write_text(ENTRY)
    digests, run = tmp_path / "digests", tmp_path / "run"
    digests.mkdir()
    launched = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"),
            *("--rdzv-backend", "c10d", "--rdzv-endpoint", "127.0.0.1:0"),
            *("--local-addr", "127.0.0.1", tmp_path / "entry.py", table, "--out", run),
            *("--network", "mobilenet_v2", "--size", "32", "--epochs", "2", "--batch", "4"),
            *("--accelerator", "cpu", "--precision", "fp32"),
        ],
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
            "DIGESTS": str(digests),
            "GLOO_SOCKET_IFNAME": "lo",
            "OMP_NUM_THREADS": "1",
        },
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert launched.returncode == 0, launched.stderr
    first, second = (digests / name for name in "01")
    assert first.read_text() == second.read_text()
    assert launched.stderr.count("finished: epoch") == 1
    assert len((run / "metrics.csv").read_text().splitlines()) == 1 + 2
    assert (run / "weights.safetensors").exists()
