"""How fast a run is on this machine, against what the machine can do.

Every time is a median of repeats with its quartiles; ratios are of medians of the same
process, because shared machines differ from minute to minute.
"""

from __future__ import annotations

import resource
import sys
import time
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from transformer.training import batching, flops, remat
from transformer.training.experiment import Experiment
from transformer.training.loop import jit_update
from transformer.training.timing import matmul_peak, measure_seconds, short
from transformer.training.update import init_sharded_state


def memory_bandwidth(*, megabytes: int = 512) -> float:
    """Bytes per second read from memory by the best of a sum and a matrix-vector
    product over an array far larger than the caches."""
    rows = megabytes * 2**20 // (4 * 1024)
    w_VD = jax.random.normal(jax.random.key(0), (rows, 1024))
    x_D = jnp.ones((1024,))
    reads = (jax.jit(jnp.sum), jax.jit(lambda w_VD: w_VD @ x_D))
    fastest = [measure_seconds(partial(read, w_VD), repeats=9).low for read in reads]
    return w_VD.nbytes / min(fastest)


def show(experiment: Experiment, mesh: Mesh) -> None:
    """Print the benchmark of an experiment; call under `jax.set_mesh(mesh)`."""
    experiment = remat.fit(experiment, mesh)
    rows, tokens = experiment.batch_size, experiment.tokens_per_row
    at = batching.sharded_batches(experiment.batch, rows, mesh)
    data = measure_seconds(lambda: experiment.batch(1, range(rows)), repeats=21)
    state, batch = init_sharded_state(experiment, mesh), at(0)
    start = time.perf_counter()
    jax.config.update("jax_enable_compilation_cache", False)
    advance = jit_update(experiment, mesh).lower(state, batch).compile()
    jax.config.update("jax_enable_compilation_cache", True)
    compile_seconds = time.perf_counter() - start

    def advance_once() -> Any:
        nonlocal state
        state, metrics = advance(state, batch)
        return metrics

    seconds = measure_seconds(advance_once, repeats=15)
    devices = mesh.size
    kind = jax.devices()[0].device_kind
    _line("device", f"{devices} x {kind}, jax {jax.__version__}")
    _line("compile", f"{compile_seconds:.1f} s (without the persistent cache)")
    _line("step", f"{seconds.median * 1e3:.1f} ms  [{seconds.low * 1e3:.1f} to "
          f"{seconds.high * 1e3:.1f}]")  # fmt: skip
    _line("tokens", seconds.rate(rows * tokens))
    work = rows * flops.per_row(experiment)
    _line("model FLOPs", seconds.rate(work))
    for name in ("float32", "bfloat16"):
        peak = matmul_peak(jnp.dtype(name)) * devices
        ratio = work / seconds.median / peak
        _line(f"  of the {name} product peak", f"{ratio:.0%} of {short(peak)}FLOP/s")
    _line("peak memory", f"{_peak_memory() / 2**20:.0f} MiB")
    _line("data", f"{data.rate(rows)} rows, {seconds.median / data.median:.0f}x "
          "faster than a step consumes them")  # fmt: skip
    for name, measure in experiment.benchmarks.items():
        for what, value in measure(state.params).items():
            _line(f"{name}: {what}", f"{value:.4g}")


def _line(what: str, value: str) -> None:
    print(f"{what:32} {value}", flush=True)


def _peak_memory() -> float:
    """Bytes: of the device where it keeps count, else of this process."""
    statistics = jax.devices()[0].memory_stats() or {}
    if "peak_bytes_in_use" in statistics:
        return float(statistics["peak_bytes_in_use"])
    unit = 1 if sys.platform == "darwin" else 1024
    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit)
