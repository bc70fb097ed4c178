"""Start of a process: CPU tuning, jax.distributed, compilation cache, mesh."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from transformer import cpu_tuning, storage

# Programs that compile for longer than this are cached on disk.
CACHED_SECONDS = 0.5
# A process without a heartbeat for this long counts as dead.
HEARTBEAT_SECONDS = 30


def setup(common: Mapping[str, Any]) -> None:
    """Tune the CPU, join the processes, and open the compilation cache."""
    if common["platform_tuning"]:
        cpu_tuning.tune()
    import jax

    from transformer.training import faults

    jax.config.update("jax_compilation_cache_dir", str(storage.cache_home() / "xla"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", CACHED_SECONDS)
    faults.silence_async_tracebacks()
    names = ("coordinator", "processes", "process")
    if initialize_distributed(*(common[name] for name in names)):
        faults.exit_on_exception()


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
        if any(value is None for value in cluster):
            raise ValueError(
                "expected --coordinator, --processes and --process together, "
                f"got {list(cluster)}"
            )
        jax.distributed.initialize(*cluster, **timeouts)
        return True
    try:
        jax.distributed.initialize(**timeouts)
    except ValueError as error:
        # No cluster was detected: a single process.
        if "coordinator_address" not in str(error):
            raise
        return False
    return True


def is_multiprocess() -> bool:
    """Whether `jax.distributed` is initialized. Does not import jax."""
    jax = sys.modules.get("jax")
    return jax is not None and jax.distributed.is_initialized()


def parse_mesh(text: str) -> Any:
    """The mesh of a text such as data:2,tensor:4. ValueError for another form."""
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
    return axes.make_mesh(**sizes)
