"""Start of a process: CPU tuning, jax.distributed, compilation cache, mesh."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformer import cpu_tuning, storage

# Programs that compile for longer than this are cached on disk.
CACHED_SECONDS = 0.5
# A process without a heartbeat for this long counts as dead.
HEARTBEAT_SECONDS = 30
# Process 0 must be there, and all processes must have joined, within these.
COORDINATOR_SECONDS = 60.0
JOIN_SECONDS = 120


def setup(common: Mapping[str, Any]) -> None:
    """Tune the CPU, join the processes, and open the compilation cache."""
    if common["platform_tuning"]:
        cpu_tuning.tune()
    if importlib.util.find_spec("libtpu") is not None and cpu_tuning.on_cpu():
        # It would look for a TPU that is not here, and complain.
        os.environ.setdefault("JAX_PLATFORMS", "cpu")
    import jax

    from transformer.training import faults

    cache = storage.cache_home() / "xla"
    _remove_torn_programs(cache)
    jax.config.update("jax_compilation_cache_dir", str(cache))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", CACHED_SECONDS)
    faults.silence_async_tracebacks()
    names = ("coordinator", "processes", "process")
    if initialize_distributed(*(common[name] for name in names)):
        from transformer import runtime_messages

        runtime_messages.condense_stderr()
        faults.exit_on_exception()


def _remove_torn_programs(cache: Path) -> None:
    """Remove compiled programs that a full disk cut: JAX would read them in vain, and
    warn, at every start. Those since the last start are looked at."""
    stamp = cache / "checked"
    since = stamp.stat().st_mtime if stamp.exists() else 0.0
    torn = []
    try:
        for file in cache.glob("*-cache"):
            status = file.stat()
            whole = status.st_size and (
                status.st_mtime < since - 1 or _is_whole(file.read_bytes())
            )
            if not whole:
                file.unlink()
                torn.append(file.name)
        if cache.is_dir():
            stamp.touch()
    except OSError:
        pass  # Another process removed it, or the cache is read-only.
    if torn:
        print(f"removed {len(torn)} incomplete programs from {cache}", flush=True)


def _is_whole(content: bytes) -> bool:
    """Whether a program of JAX's cache, a zstandard frame or zlib, is complete."""
    import zlib

    if content.startswith(b"\x28\xb5\x2f\xfd"):
        import pyarrow

        stream = pyarrow.BufferReader(content)
        try:
            pyarrow.CompressedInputStream(stream, "zstd").read()
        except OSError:
            return False
        return True
    reader = zlib.decompressobj()
    try:
        reader.decompress(content)
    except zlib.error:
        return False
    return reader.eof


def initialize_distributed(
    coordinator: str | None, processes: int | None, process: int | None
) -> bool:
    """Join the other processes; False for a single process. All None: detect the
    cluster."""
    import jax

    timeouts: dict[str, Any] = {
        "heartbeat_timeout_seconds": HEARTBEAT_SECONDS,
        "shutdown_timeout_seconds": HEARTBEAT_SECONDS,
    }
    cluster = coordinator, processes, process
    if any(value is not None for value in cluster):
        _check_cluster(coordinator, processes, process)
        _join(cluster, timeouts)
        return True
    try:
        jax.distributed.initialize(**timeouts)
    except ValueError as error:
        # No cluster was detected: a single process.
        if "coordinator_address" not in str(error):
            raise
        return False
    return True


def _check_cluster(
    coordinator: str | None, processes: int | None, process: int | None
) -> None:
    """Raise ValueError unless the three flags go together: JAX would end with a C++
    stack, or wait."""
    if coordinator is None or processes is None or process is None:
        raise ValueError(
            "expected --coordinator, --processes and --process together, "
            f"got {[coordinator, processes, process]}"
        )
    host, _, port = coordinator.rpartition(":")
    if not (host and port.isascii() and port.isdigit() and 0 < int(port) < 1 << 16):
        raise ValueError(
            "--coordinator: expected address:port with a port from 1 to 65535, got "
            f"{coordinator!r}"
        )
    if not 0 <= process < processes:
        raise ValueError(
            f"--process: expected 0 to {processes - 1} of {processes} processes, got "
            f"{process}"
        )


def _join(cluster: tuple[Any, ...], timeouts: dict[str, Any]) -> None:
    import jax

    coordinator, processes, process = cluster
    if process:
        _await_coordinator(coordinator)
    try:
        jax.distributed.initialize(
            *cluster, initialization_timeout=JOIN_SECONDS, **timeouts
        )
    except RuntimeError as error:
        raise ValueError(
            f"--processes: expected {processes} processes within {JOIN_SECONDS} s at "
            f"{coordinator}, got fewer ({str(error).splitlines()[0]})"
        ) from None


def _await_coordinator(coordinator: str) -> None:
    """Return once process 0 accepts connections. ValueError after a minute: JAX would
    wait five and abort with a C++ stack."""
    import socket
    import time

    host, _, port = coordinator.rpartition(":")
    deadline = time.monotonic() + COORDINATOR_SECONDS
    while True:
        try:
            with socket.create_connection((host.strip("[]"), int(port)), timeout=5):
                return
        except OSError as error:
            if time.monotonic() > deadline:
                raise ValueError(
                    f"--coordinator: expected process 0 at {coordinator} within "
                    f"{COORDINATOR_SECONDS:.0f} s, got none ({error.strerror or error})"
                ) from None
            time.sleep(0.5)


def is_multiprocess() -> bool:
    """Whether `jax.distributed` is initialized. Does not import jax."""
    jax = sys.modules.get("jax")
    return jax is not None and jax.distributed.is_initialized()


def parse_mesh(text: str) -> Any:
    """The mesh of a text such as data:2,tensor:4. ValueError for another form."""
    from transformer import axes

    sizes: Any = mesh_sizes(text)
    return axes.make_mesh(**sizes)


def mesh_sizes(text: str) -> dict[str, int]:
    """axis -> size of a text such as data:2,tensor:4. ValueError for another form."""
    from transformer import axes

    sizes = {}
    for part in filter(None, text.split(",")):
        axis, _, size = part.partition(":")
        if axis not in axes.AXES or axis in sizes or not size.isdigit():
            raise ValueError(
                "--mesh: expected axis:size, each axis once and among "
                f"{', '.join(axes.AXES)}; got {part!r} in {text!r}"
            )
        sizes[axis] = int(size)
    return sizes
