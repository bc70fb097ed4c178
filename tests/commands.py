"""Command lines in this process and in child processes."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import socket
import sys
import tempfile
import time
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any

import fake_store
import pytest
import tiny_experiment

from transformer import launch, main
from transformer.training import faults, workdir

# Children are forked from a server that has imported everything and started no backend,
# which saves the seconds of the imports.
SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(
    [
        "orbax.checkpoint",
        "tensorboardX",
        "transformer.main",
        "transformer.objectives.cross_entropy",
        "transformer.training.workdir",
        "transformer.training.loop",
        "transformer.training.optimizers",
    ]
)
PATIENCE_SECONDS = 100
# The compilation cache that all children share.
CACHE = tempfile.TemporaryDirectory()


def verbs_of(run: Any) -> dict[str, Any]:
    """The verbs of its own that `run` has: `verbs`, or `generate` alone."""
    return getattr(run, "verbs", None) or {"generate": run.generate}


def exit_status(argv, monkeypatch, *, run: Any = tiny_experiment) -> int:
    """The exit status of `run`'s command line in this process."""
    monkeypatch.setattr("transformer.launch.setup", lambda common: None)
    monkeypatch.setattr(sys, "argv", ["command", *map(str, argv)])
    with pytest.raises(SystemExit) as stopped:
        main.main(run.experiment, **verbs_of(run))
    return stopped.value.code


def refusal(argv, capsys, monkeypatch, *, run: Any = tiny_experiment) -> str:
    """The one line with which `run` refuses its command line in this process."""
    status = exit_status(argv, monkeypatch, run=run)
    output = capsys.readouterr()
    assert status == 2, output
    lines = output.err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: "), output.err
    return lines[0]


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    files = (file for file in folder.rglob("*") if file.is_file())
    return {str(file.relative_to(folder)): file.read_bytes() for file in files}


class Child:
    """A run of tiny_experiment in a child process; its output goes to a file."""

    def __init__(
        self,
        output: Path,
        *argv: str,
        devices: int = 1,
        env: dict[str, str] | None = None,
    ) -> None:
        self.output = output
        # Another program writes the standard error of several processes.
        self._has_reader = any(part.startswith("--coordinator") for part in argv)
        output.touch()
        flags = " ".join(
            part
            for part in os.environ["XLA_FLAGS"].split()
            if "device_count" not in part
        )
        flags += f" --xla_force_host_platform_device_count={devices}"
        env = {"XLA_FLAGS": flags, "XDG_CACHE_HOME": CACHE.name, **(env or {})}
        arguments = str(output), list(argv), env
        self._process = SERVER.Process(target=_run, args=arguments)
        self._process.start()

    @property
    def text(self) -> str:
        return self.output.read_text()

    @property
    def alive(self) -> bool:
        return self._process.is_alive()

    def signal(self, number: int) -> None:
        os.kill(self._process.pid, number)

    def status(self) -> int:
        """The exit status when the process has ended; a signal's number is negative."""
        self._process.join(PATIENCE_SECONDS)
        status = self._process.exitcode
        if status is None:
            self._process.kill()
            raise AssertionError(f"still running; output {self.text}")
        if self._has_reader:
            time.sleep(0.5)
        return status

    def await_text(self, text: str, times: int = 1) -> None:
        """Return once its output has `text` that many times."""
        self.await_true(lambda: self.text.count(text) >= times, text)

    def await_true(self, condition, what: str = "") -> None:
        """Return once `condition()` holds; fail when the process ends before."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not condition():
            alive = self.alive and time.monotonic() < deadline
            assert alive or condition(), f"never {what!r}; output {self.text}"
            time.sleep(0.003)


def start_processes(
    folder: Path,
    *argv: str,
    processes: int = 2,
    env: dict[str, str] | None = None,
    workdirs: list[Any] | None = None,
    verb: str = "train",
) -> list[Child]:
    """Processes of two devices each, which train one run in `folder`, or each in one of
    `workdirs`."""
    folder.mkdir(parents=True, exist_ok=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        coordinator = f"--coordinator=127.0.0.1:{free.getsockname()[1]}"
    return [
        Child(
            folder.parent / f"{folder.name}-output{process}.txt",
            verb,
            f"--workdir={workdirs[process] if workdirs else folder}",
            coordinator,
            f"--processes={processes}",
            f"--process={process}",
            *argv,
            devices=2,
            env=env,
        )
        for process in range(processes)
    ]


def _run(output: str, argv: list[str], env: dict[str, str]) -> None:
    """In the child: redirect both outputs to a file, then run the command line."""
    file = os.open(output, os.O_WRONLY | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.environ.update(env)
    # nohup and background jobs ignore these, and so would the child.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    _lose(os.environ.pop("LOSE", None))
    if store := os.environ.pop("FAKE_STORE", None):
        fake_store.install(Path(store))
    limit = os.environ.pop("LIMIT_BYTES", None)
    if limit is not None:
        _limit(int(limit))
    faults.WATCHDOG_SECONDS = float(os.environ.get("WATCHDOG_SECONDS", 45))
    launch.HEARTBEAT_SECONDS = int(os.environ.get("HEARTBEAT_SECONDS", 30))
    launch.CACHED_SECONDS = 0.0
    workdir.SHARED_SECONDS = float(os.environ.get("SHARED_SECONDS", 90))
    # A tracker of its own: the server's warns of resources that killed children leave.
    resource_tracker._resource_tracker._fd = None
    sys.argv = ["tiny_experiment", *argv, "--noplatform_tuning"]
    main.main(tiny_experiment.experiment, generate=tiny_experiment.generate)


def _lose(how: str | None) -> None:
    """Standard output as a pipe that nobody reads, a full device, or closed."""
    if how == "pipe":
        reader, writer = os.pipe()
        os.close(reader)
        os.dup2(writer, 1)
    elif how == "full":
        os.dup2(os.open("/dev/full", os.O_WRONLY), 1)
    elif how == "closed":
        os.close(1)
        sys.stdout = None


def _limit(size: int) -> None:
    """Limit files to `size` bytes: writing more fails, as on a full disk."""
    import resource

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def losses(folder: Path, kind: str = "train") -> list[tuple[int, float]]:
    """Step and loss of every record of a kind."""
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    return [(r["step"], r["loss"]) for r in records if r["kind"] == kind]
