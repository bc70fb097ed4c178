"""Start of a process: CPU tuning, jax.distributed, compilation cache, mesh."""

from __future__ import annotations

import importlib.util
import os
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformer import cpu_tuning, storage

if TYPE_CHECKING:
    from transformer.launchers import Cluster

# Programs that compile for longer than this are cached on disk.
CACHED_SECONDS = 0.5
# A process without a heartbeat for this long counts as dead.
HEARTBEAT_SECONDS = 30
# The others await the report of the slowest process, or the verb of process 0.
SHUTDOWN_SECONDS = 3600
# Process 0 must be there, and all processes must have joined, within these.
COORDINATOR_SECONDS = 60.0
JOIN_SECONDS = 120
# The hosts of a cluster do not start at once: one may still load its container.
CLUSTER_JOIN_SECONDS = 300
# The variable by which JAX takes a coordinator.
COORDINATOR_VARIABLE = "JAX_COORDINATOR_ADDRESS"
# The options by which JAX restricts a process to some devices of its host.
DEVICE_OPTIONS = ("jax_cuda_visible_devices", "jax_rocm_visible_devices")


class JoinError(ValueError):
    """Processes that did not come together: another start may succeed."""


def setup(common: Mapping[str, Any]) -> None:
    """Tune the CPU, join the processes, and open the compilation cache."""
    if common["platform_tuning"]:
        cpu_tuning.tune()
    if importlib.util.find_spec("libtpu") is not None and cpu_tuning.on_cpu():
        # It would look for a TPU that is not here, and complain.
        os.environ.setdefault("JAX_PLATFORMS", "cpu")
    import jax

    from transformer import launchers, runtime_messages
    from transformer.training import faults

    cache = storage.cache_home() / "xla"
    _remove_torn_programs(cache)
    jax.config.update("jax_compilation_cache_dir", str(cache))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", CACHED_SECONDS)
    faults.silence_async_tracebacks()
    faults.watchdog_seconds()  # A bad one is refused before any work.
    cluster = launchers.detect(os.environ)
    flags = common["coordinator"], common["processes"], common["process"]
    check_cluster(*flags, cluster)
    # On a TPU VM, where no variable says so, JAX has chosen its platform.
    is_tpu = "tpu" in str(getattr(jax.config, "jax_platforms", ""))
    is_one = cluster and cluster.processes == 1
    if flags[0] is not None or is_tpu or (cluster and not is_one):
        runtime_messages.condense_stderr()
    if initialize_distributed(*flags, cluster):
        runtime_messages.condense_stderr()
        faults.exit_on_exception()


def describe(coordinator: str | None) -> str:
    """What the start found, for the first line of a run: processes, by what they
    joined, and devices. coordinator: the flag."""
    import jax

    from transformer import launchers

    kind = jax.devices()[0].device_kind
    devices = f"{jax.device_count()} x {kind}"
    cluster = launchers.detect(os.environ)
    if not is_multiprocess():
        if cluster and cluster.processes is None:
            return f"1 process alone ({cluster.index}), {devices}"
        return f"1 process, {devices}"
    joined_by = cluster.launcher if cluster else "the metadata of the TPU VM"
    if coordinator is not None:
        joined_by = f"--coordinator={coordinator}"
    count = jax.process_count()
    return f"{count} process{'es' * (count > 1)} by {joined_by}, {devices}"


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


def check_cluster(
    coordinator: str | None,
    processes: int | None,
    process: int | None,
    cluster: Cluster | None = None,
) -> None:
    """Raise ValueError unless the three flags go together, or are all None, and agree
    with the launcher: JAX would end with a C++ stack, or wait."""
    if coordinator is None and processes is None and process is None:
        return
    if coordinator is None or processes is None or process is None:
        raise ValueError(
            "expected --coordinator, --processes and --process together, "
            f"got {[coordinator, processes, process]}"
        )
    host, _, port = coordinator.rpartition(":")
    if not (host and _is_number(port) and 0 < int(port) < 1 << 16):
        raise ValueError(
            "--coordinator: expected address:port with a port from 1 to 65535, got "
            f"{coordinator!r}"
        )
    if not 0 <= process < processes:
        raise ValueError(
            f"--process: expected 0 to {processes - 1} of {processes} processes, got "
            f"{process}"
        )
    if cluster:
        cluster.check(processes, process)


def initialize_distributed(
    coordinator: str | None,
    processes: int | None,
    process: int | None,
    cluster: Cluster | None = None,
) -> bool:
    """Join the other processes; False for a single process. All None: those of the
    cluster that JAX detects.

    Raises JoinError where they did not come, and ValueError where the launcher started
    several, of which JAX finds no coordinator.
    """
    if coordinator is None:
        return _join_cluster(cluster)
    if process:
        _await_coordinator(coordinator)
    try:
        _initialize(
            cluster,
            coordinator,
            processes,
            process,
            initialization_timeout=JOIN_SECONDS,
            cluster_detection_method=None if cluster else "deactivate",
        )
    except RuntimeError as error:
        raise JoinError(
            f"--processes: expected {processes} processes within {JOIN_SECONDS} s at "
            f"{coordinator}, got fewer ({str(error).splitlines()[0]})"
        ) from None
    return True


def _join_cluster(cluster: Cluster | None) -> bool:
    name = cluster.launcher if cluster else "the cluster"
    try:
        with warnings.catch_warnings():
            # `refuse_alone` says so in one line.
            warnings.filterwarnings("ignore", r"\s*Kubernetes environment detected")
            _initialize(cluster, initialization_timeout=CLUSTER_JOIN_SECONDS)
    except ValueError as error:
        # No cluster was detected: a single process.
        if cluster:
            cluster.refuse_alone()
        if address := os.environ.get(COORDINATOR_VARIABLE):
            raise ValueError(
                f"{COORDINATOR_VARIABLE}={address}: expected a cluster that says how "
                "many processes there are, got none; give --coordinator, --processes "
                "and --process, or unset it"
            ) from None
        if "coordinator_address" not in str(error):
            raise
        return False
    except (RuntimeError, OSError) as error:
        if cluster and "mpi4py" in str(error):
            cluster.refuse_alone()
            return False
        raise JoinError(
            f"expected to join the processes of {name}, got: {error} "
            "(--coordinator=localhost:8476 --processes=1 --process=0 starts one alone)"
        ) from None
    return True


def _initialize(cluster: Cluster | None, *flags: Any, **options: Any) -> None:
    import jax

    visible = {name: jax.config.read(name) for name in DEVICE_OPTIONS}
    jax.distributed.initialize(
        *flags,
        heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
        shutdown_timeout_seconds=SHUTDOWN_SECONDS,
        **options,
    )
    if cluster and cluster.one_per_host and "JAX_LOCAL_DEVICE_IDS" not in os.environ:
        # JAX gives one device to each process of SLURM and Open MPI.
        for name, value in visible.items():
            jax.config.update(name, value)


def _await_coordinator(coordinator: str) -> None:
    """Return once process 0 accepts connections. JoinError after a minute: JAX would
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
                raise JoinError(
                    f"--coordinator: expected process 0 at {coordinator} within "
                    f"{COORDINATOR_SECONDS:.0f} s, got none ({error.strerror or error})"
                ) from None
            time.sleep(0.5)


def is_multiprocess() -> bool:
    """Whether `jax.distributed` is initialized. Does not import jax."""
    jax = sys.modules.get("jax")
    return jax is not None and jax.distributed.is_initialized()


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit()


def parse_mesh(text: str) -> Any:
    """The mesh of a text such as data:2,tensor:4. ValueError for another form."""
    from transformer import axes

    sizes: Any = mesh_sizes(text)
    return axes.make_mesh(**sizes)


def mesh_sizes(text: str) -> dict[str, int]:
    """axis -> size of a text such as data:2,tensor:4. ValueError for another form."""
    from transformer import axes

    sizes = {}
    for part in text.split(",") if text else ():
        axis, _, size = part.partition(":")
        if axis not in axes.AXES or axis in sizes or not _is_number(size):
            raise ValueError(
                "--mesh: expected axis:size, each axis once and among "
                f"{', '.join(axes.AXES)}; got {part!r} in {text!r}"
            )
        sizes[axis] = int(size)
    return sizes
