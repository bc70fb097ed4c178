"""A trace of a few steps for xprof or TensorBoard, and its slowest operations."""

from __future__ import annotations

import collections
import re
from pathlib import Path

import jax

from transformer import uploads

FOLDER = "profile"
SHOWN = 10
# Events of the runtime, which wait for the operations or wrap them.
_RUNTIME = re.compile(r"^(\$|end: |Thread|Thunk|Pjit|Slinky|.*::)")

# Threads that execute operations on a CPU: that of the client, and the pool to which a
# program with operations that do not wait for each other passes them.
_CPU_THREADS = re.compile("XLAPjRtCpuClient|XLAEigen")


def parse_steps(text: str) -> range:
    """The steps of a text such as 10:15, from 1, the last included; none for an empty
    one. Raises ValueError for another form."""
    if not text:
        return range(0)
    found = re.fullmatch(r"([0-9]{1,9}):([0-9]{1,9})", text)
    first, last = map(int, found.groups()) if found else (0, 0)
    if not 1 <= first <= last:
        raise ValueError(
            f"--profile: expected the first and the last step, as 10:15, got {text!r}"
        )
    return range(first, last + 1)


class Profiler:
    """Traces the steps of `steps` into `folder`/profile."""

    def __init__(self, folder: Path, steps: range) -> None:
        self._folder, self._steps = folder / FOLDER, steps
        self._running: uploads.OutputFolder | None = None

    def begin_step(self, step: int) -> None:
        """Call before `step` is computed: begins the trace at its first step."""
        if self._steps and step == self._steps.start:
            self._running = uploads.OutputFolder(self._folder)
            jax.profiler.start_trace(str(self._running.local))

    def end_step(self, step: int, results: object) -> None:
        """Call with the results of `step`: ends the trace at its last step."""
        if self._running and step == self._steps.stop - 1:
            jax.block_until_ready(results)
            self.stop()

    def stop(self) -> None:
        """End a trace that is running, and print its slowest operations."""
        if not self._running:
            return
        written, self._running = self._running, None
        jax.profiler.stop_trace()
        print(f"trace: {self._folder}, for xprof or TensorBoard", flush=True)
        files = sorted(written.local.rglob("*.xplane.pb"))
        for name, seconds in slowest_operations(files[-1]) if files else []:
            print(f"{1e3 * seconds:10.2f} ms  {name}", flush=True)
        written.upload()


def slowest_operations(file: Path) -> list[tuple[str, float]]:
    """The operations of a trace that took most, with their seconds over all threads."""
    total: collections.Counter[str] = collections.Counter()
    planes = list(jax.profiler.ProfileData.from_file(str(file)).planes)
    on_device = [plane for plane in planes if plane.name.startswith("/device:")]
    for plane in on_device or planes:
        for line in plane.lines:
            if line.name != ("XLA Ops" if on_device else line.name):
                continue
            if not on_device and not _CPU_THREADS.search(line.name):
                continue
            for event in line.events:
                if not _RUNTIME.match(event.name):
                    total[event.name] += event.duration_ns
    return [(name, 1e-9 * ns) for name, ns in total.most_common(SHOWN)]
