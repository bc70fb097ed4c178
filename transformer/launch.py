"""Before the first array: the platform tuned, the processes joined, the mesh made."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformer import cpu_tuning

# Programs that took longer than this to compile are kept on disk.
CACHED_SECONDS = 0.5
# A process not heard of for so long is taken for dead by the others.
HEARTBEAT_SECONDS = 30


def start(common: Mapping[str, Any]) -> None:
    """The platform tuned, the processes joined, the compilation cache open."""
    if common["platform_tuning"]:
        cpu_tuning.tune()
    import jax

    from transformer.training import faults

    home = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    jax.config.update("jax_compilation_cache_dir", str(home / "transformer" / "xla"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", CACHED_SECONDS)
    faults.hush()
    if joined([common[name] for name in ("coordinator", "processes", "process")]):
        faults.die_loudly()


def joined(given: list[Any]) -> bool:
    """Whether there are several processes, this one now among them."""
    import jax

    patience: dict[str, Any] = {
        "heartbeat_timeout_seconds": HEARTBEAT_SECONDS,
        "shutdown_timeout_seconds": HEARTBEAT_SECONDS,
    }
    if any(value is not None for value in given):
        if any(value is None for value in given):
            raise ValueError(
                "expected --coordinator, --processes and --process together, "
                f"got {given}"
            )
        jax.distributed.initialize(*given, **patience)
        return True
    try:
        jax.distributed.initialize(**patience)
    except ValueError as error:
        # Nothing detected: a single process. Any other failure is a failure.
        if "coordinator_address" not in str(error):
            raise
        return False
    return True


def several() -> bool:
    """Whether this is one of several processes. Does not import jax."""
    jax = sys.modules.get("jax")
    return jax is not None and jax.distributed.is_initialized()


def mesh(text: str) -> Any:
    """The mesh that a text like data:2,tensor:4 asks for. ValueError: impossible."""
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
    return axes.mesh(**sizes)
