"""Allocator options and XLA flags of a CPU, set once, before jax computes anything.

An allocator that keeps its memory makes a training step 20 % faster: glibc returns
every large buffer to the kernel, which hands it out again page by page, zeroed. One XLA
flag is set where it helps: vectors as wide as the registers, 4 to 10 % with jax 0.12.
Other flags that were measured (oneDNN, fast math, schedulers, tiling; jax 0.10 and
0.12) made nothing faster, and some halved the speed.

    from transformer import cpu_tuning
    print(cpu_tuning.tune())     # first cell of a notebook, or first line of a program
"""

from __future__ import annotations

import ctypes
import functools
import importlib.metadata
import importlib.util
import os
import pkgutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

SWITCH = "TRANSFORMER_TUNE"

# Of glibc's malloc.h: one arena for all threads, which share freed memory; no separate
# mapping for a large buffer; nothing returned to the kernel (-1; a threshold of 2 GiB
# made steps that use more than that take 1.5 times as long).
MALLOPT = {
    "M_ARENA_MAX": (-8, 1),
    "M_MMAP_MAX": (-4, 0),
    "M_TRIM_THRESHOLD": (-1, -1),
}

# XLA uses half of an AVX-512 register, because some CPUs slow down when all of it is
# used; those that also multiply bfloat16 do not. jaxlib 0.10's kernels gain nothing.
WIDE_VECTORS = "--xla_cpu_prefer_vector_width=512"
WIDE_VECTORS_SINCE = (0, 12)

# Flags and the jaxlib versions that accept them: these are not tried in a process.
ACCEPTED = {WIDE_VECTORS: ((0, 12),)}


class Tuning(NamedTuple):
    """The allocator options and XLA flags that were set, and why others were not."""

    allocator: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()

    def __str__(self) -> str:
        names = ", ".join(self.allocator + self.flags) or "nothing"
        return f"tuned: {names}" + "".join(f"; {why}" for why in self.skipped)


def tune(*, enabled: bool = True, flags: Sequence[str] = ()) -> Tuning:
    """Tune this process for computing on the CPU; return what was set.

    Call it before jax starts its backend. It does nothing where an accelerator is used;
    `enabled=False` or the environment's TRANSFORMER_TUNE=0 turns it off. Settings of
    the user (MALLOC_*, GLIBC_TUNABLES, a preloaded allocator, XLA_FLAGS) stay. flags:
    further XLA flags ("--xla_cpu_...=..."); those that the installed jaxlib does not
    know are skipped, because XLA would abort the process.
    """
    if not enabled or os.environ.get(SWITCH, "1") == "0":
        return Tuning(skipped=("turned off",))
    if not on_cpu():
        return Tuning(skipped=("not a CPU run",))
    variable = _allocator_variable(os.environ)
    if variable:
        allocator, skipped = (), (f"allocator left as {variable} sets it",)
    else:
        allocator, skipped = _keep_memory()
    added, refused = _add_flags([*_default_flags(), *flags])
    return Tuning(allocator, added, skipped + refused)


def on_cpu() -> bool:
    """Whether jax will compute on the CPU, without starting its backend: by
    JAX_PLATFORMS, else by whether a plugin of an accelerator is installed, and of TPUs
    whether there is one."""
    platforms = os.environ.get("JAX_PLATFORMS", "")
    if platforms:
        return platforms.split(",")[0] == "cpu"
    plugins = importlib.util.find_spec("jax_plugins")
    folders = plugins.submodule_search_locations if plugins else None
    if any(True for _ in pkgutil.iter_modules(list(folders or ()))):
        return False
    return importlib.util.find_spec("libtpu") is None or not has_tpu()


def has_tpu() -> bool:
    """Whether the kernel shows a TPU. libtpu may be installed without one, to compile
    for it (`transformer/planning`)."""
    return any(Path("/dev").glob("accel[0-9]*")) or any(
        Path("/dev/vfio").glob("[0-9]*")
    )


def compute_dtype() -> str:
    """The fastest dtype for matmuls: "bfloat16" on accelerators and on CPUs that
    multiply it (AVX-512 BF16, AMX), elsewhere "float32"."""
    if not on_cpu():
        return "bfloat16"
    return "bfloat16" if {"avx512_bf16", "amx_bf16"} & cpu_features() else "float32"


@functools.cache
def knows_flag(flag: str) -> bool:
    """Whether the installed jaxlib accepts the XLA flag "--name=value". Tried in a
    process of its own, because XLA aborts at an unknown one; flags in ACCEPTED are
    not."""
    if _jaxlib_version() in ACCEPTED.get(flag, ()):
        return True
    environment = {**os.environ, "XLA_FLAGS": flag, "JAX_PLATFORMS": "cpu"}
    probe = [sys.executable, "-c", "import jax; jax.devices()"]
    done = subprocess.run(probe, env=environment, capture_output=True, check=False)
    return done.returncode == 0


def _allocator_variable(environment: Mapping[str, str]) -> str:
    """The variable by which the user configures the allocator, or ""."""
    preloaded = environment.get("LD_PRELOAD", "")
    if any(name in preloaded for name in ("malloc", "hoard")):
        return "LD_PRELOAD"
    names = (n for n in environment if n.startswith("MALLOC_"))
    return "GLIBC_TUNABLES" if "GLIBC_TUNABLES" in environment else next(names, "")


def _keep_memory() -> tuple[tuple[str, ...], tuple[str, ...]]:
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return (), ("no mallopt in this C library",)
    # Each option helps by itself: a refused one does not end the loop.
    accepted = [name for name, option in MALLOPT.items() if mallopt(*option) == 1]
    _options.update(accepted)
    return tuple(accepted), ()


# The allocator options that this process has set.
_options: set[str] = set()


def has_one_arena() -> bool:
    """Whether all threads of this process allocate from one arena: those that allocate
    much wait for each other, and two are slower than one."""
    return "M_ARENA_MAX" in _options


def _default_flags() -> list[str]:
    """The flags that make this code faster on this CPU, with this jaxlib."""
    recent = _jaxlib_version() >= WIDE_VECTORS_SINCE
    return [WIDE_VECTORS] if recent and "avx512_bf16" in cpu_features() else []


def _jaxlib_version() -> tuple[int, int]:
    """Major and minor version of jaxlib."""
    major, minor = importlib.metadata.version("jaxlib").split(".")[:2]
    return int(major), int(minor)


def _add_flags(flags: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    present = os.environ.get("XLA_FLAGS", "")
    names = {flag.split("=")[0] for flag in present.split()}
    added, refused = [], []
    for flag in flags:
        if flag.split("=")[0] in names:
            refused.append(f"{flag} left as XLA_FLAGS sets it")
        elif not knows_flag(flag):
            refused.append(f"{flag} unknown to this jaxlib")
        else:
            added.append(flag)
    if added:
        os.environ["XLA_FLAGS"] = " ".join([*present.split(), *added])
    return tuple(added), tuple(refused)


def cpu_features() -> set[str]:
    """The instruction sets of this CPU as Linux names them; empty elsewhere."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return set()
    flags = next((line for line in lines if line.startswith("flags")), "")
    return set(flags.split())
