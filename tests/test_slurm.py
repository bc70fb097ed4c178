"""The launch file for SLURM, on a controller and a node of this machine."""

from __future__ import annotations

import getpass
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
DAEMONS = ("munged", "slurmctld", "slurmd")
MISSING = [name for name in DAEMONS if shutil.which(name) is None]
CONFIG = """
ClusterName=local
SlurmctldHost={host}(127.0.0.1)
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={folder}/munge.socket
SlurmUser={user}
SlurmdUser={user}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
ReturnToService=2
KillWait=5
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(MISSING), reason=f"needs {', '.join(MISSING)}"),
]


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def wait(condition: Callable[[], object], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.5)


@pytest.fixture
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The environment in which SLURM's commands find this cluster."""
    folder = tmp_path_factory.mktemp("slurm")
    folder.chmod(0o700)
    for name in ("state", "spool"):
        (folder / name).mkdir()
    key = folder / "munge.key"
    key.write_bytes(secrets.token_bytes(64))
    key.chmod(0o600)
    config = folder / "slurm.conf"
    config.write_text(
        CONFIG.format(
            folder=folder,
            host=socket.gethostname().partition(".")[0],
            user=getpass.getuser(),
            ports=(free_port(), free_port()),
            cpus=os.cpu_count(),
        )
    )
    names = "key", "pid", "log", "seed"
    flags = [f"--socket={folder / 'munge.socket'}"]
    flags += [f"--{name}-file={folder / 'munge'}.{name}" for name in names]
    environment = {**os.environ, "SLURM_CONF": str(config)}
    try:
        subprocess.run(["munged", "--force", *flags], check=True)
        for daemon in DAEMONS[1:]:
            subprocess.run([daemon, "-f", config], env=environment, check=True)
        yield environment
    finally:
        # Of a test that was ended: the steps of a job outlive the daemons.
        cancel = ["scancel", "--signal=KILL", "--full", f"--user={getpass.getuser()}"]
        for command in (cancel, [cancel[0], cancel[-1]]):
            subprocess.run(command, env=environment, timeout=60)
        listing: Any = {"env": environment, "capture_output": True, "timeout": 60}
        wait(lambda: not subprocess.run(["squeue", "-h"], **listing).stdout)
        for name in ("slurmd", "slurmctld", "munge"):
            pid = folder / f"{name}.pid"
            if pid.is_file():
                os.kill(int(pid.read_text()), signal.SIGTERM)


def test_a_run_whose_process_is_killed_goes_on(
    slurm: dict[str, str], tmp_path: Path
) -> None:
    """Two processes find each other; after kill -9 of one, both start again from the
    last checkpoint and end."""
    workdir, log = tmp_path / "run", tmp_path / "job.log"
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    environment = {**slurm, "PYTHON": sys.executable, "PYTHONPATH": paths}
    environment["XLA_FLAGS"] = ""
    command = ["sbatch", "--parsable", "--ntasks-per-node=2", f"--output={log}"]
    command += [str(ROOT / "clusters/slurm.sbatch"), "tiny_experiment"]
    command += [f"--workdir={workdir}", "--steps=400", "--checkpoint_every=50"]
    job = subprocess.run(
        [*command, "--pause=0.05"],
        env=environment,
        cwd=tmp_path,
        check=True,
        capture_output=True,
        text=True,
    ).stdout.strip()
    checkpoints = workdir / "checkpoints"
    wait(lambda: [p for p in checkpoints.glob("*") if p.name.isdigit()])
    pattern = f"python.* -m tiny_experiment --workdir={workdir}"
    found = subprocess.run(["pgrep", "-f", pattern], capture_output=True, text=True)
    os.kill(int(found.stdout.split()[-1]), signal.SIGKILL)
    wait(lambda: "queued again" in log.read_text())
    # SLURM would wait for two minutes.
    soon = ["scontrol", "update", f"jobid={job}", "StartTime=now"]
    wait(lambda: subprocess.run(soon, env=slurm).returncode == 0)
    wait(lambda: (workdir / "finished.json").is_file(), 240)
    text = log.read_text()
    assert "start 1 on" in text and "finished; see" in text
    assert json.loads((workdir / "finished.json").read_text())["step"] == 400
    steps = [json.loads(line) for line in (workdir / "metrics.jsonl").open()]
    assert {record["step"] for record in steps} >= {10, 390}


def test_a_wrong_command_line_is_not_tried_again(
    slurm: dict[str, str], tmp_path: Path
) -> None:
    log = tmp_path / "job.log"
    environment = {**slurm, "PYTHON": sys.executable}
    command = ["sbatch", "--wait", f"--output={log}", ROOT / "clusters/slurm.sbatch"]
    command += ["experiments.language_model", "--depth=-1"]
    done = subprocess.run(command, env=environment, cwd=ROOT, check=False)
    assert done.returncode == 2 and "queued again" not in log.read_text()
