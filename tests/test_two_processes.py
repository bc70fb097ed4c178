"""Every experiment by two processes of two devices: what it evaluates and reports."""

import json
import os
import socket
import subprocess
import sys

import pytest
import test_experiments

PATIENCE_SECONDS = 1200


def start(name, folder, *argv):
    """The command line of an experiment in two processes; their outputs."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        coordinator = f"--coordinator=127.0.0.1:{free.getsockname()[1]}"
    devices = "--xla_force_host_platform_device_count=2"
    common = [f"--workdir={folder}", coordinator, "--processes=2"]
    children = [
        subprocess.Popen(
            [sys.executable, "-m", f"experiments.{name}", *argv, *common]
            + [f"--process={process}"],
            env={**os.environ, "XLA_FLAGS": devices, "JAX_PLATFORMS": "cpu"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for process in range(2)
    ]
    try:
        texts = [child.communicate(timeout=PATIENCE_SECONDS)[0] for child in children]
    finally:
        for child in children:
            child.kill()
    assert [child.returncode for child in children] == [0, 0], "\n".join(texts)
    return texts


@pytest.mark.slow
@pytest.mark.parametrize("name", test_experiments.NAMES)
def test_two_processes_train_evaluate_and_report(name, tmp_path):
    """The numbers of the evaluation and of the files that the report has."""
    needed = test_experiments.needed_flags(name, tmp_path)
    needed.pop("workdir", None)
    flags = [f"--{flag}={value}" for flag, value in needed.items()]
    folder = tmp_path / "run"
    first, _ = start(name, folder, "train", "--steps=1", *flags)
    assert f"finished; see {folder}" in first
    assert json.loads((folder / "finished.json").read_text()) == {"step": 1}
    records = (folder / "metrics.jsonl").read_text().splitlines()
    kinds = {json.loads(record)["kind"] for record in records}
    evaluated, other = start(name, folder, "evaluate")
    names = {line.partition(":")[0] for line in evaluated.splitlines()}
    assert kinds - {"train"} <= names
    assert not kinds & {line.partition(":")[0] for line in other.splitlines()}
