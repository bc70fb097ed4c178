"""Settings of the machine, made once, before jax computes anything.

On a CPU an allocator that keeps its memory is worth 20 % of a training step: glibc
gives every large buffer back to the kernel, which hands it out again page by page,
zeroed. Of XLA's own flags one is set, where it helps: vectors as wide as the registers,
worth 4 to 10 % with jax 0.12. Others that were measured (oneDNN, fast math, schedulers,
tiling; jax 0.10 and 0.12) made nothing faster, and some halved the speed.

    from transformer import platform
    print(platform.tune())     # first cell of a notebook, or first line of a program
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

# glibc's malloc.h: one arena for all threads, which share what is freed; no separate
# mapping for a large buffer; nothing ever given back to the kernel (-1; a threshold of
# 2 GiB made steps that use more than that half as fast again).
MALLOPT = {
    "M_ARENA_MAX": (-8, 1),
    "M_MMAP_MAX": (-4, 0),
    "M_TRIM_THRESHOLD": (-1, -1),
}

# XLA keeps to half of an AVX-512 register, for CPUs that slow down when all of it is
# used; those that also multiply bfloat16 do not. jaxlib 0.10's kernels gain nothing.
WIDE = "--xla_cpu_prefer_vector_width=512"
WIDE_SINCE = (0, 12)

# Flags that jaxlibs of these versions take, so that starting asks no other process.
TAKEN = {WIDE: ((0, 12),)}


class Tuning(NamedTuple):
    """What was set: names of allocator options, XLA flags, and why others were not."""

    allocator: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()

    def __str__(self) -> str:
        done = ", ".join(self.allocator + self.flags) or "nothing"
        return f"tuned: {done}" + "".join(f"; {why}" for why in self.skipped)


def tune(*, enabled: bool = True, flags: Sequence[str] = ()) -> Tuning:
    """Prepare this process for computing on the CPU; says what it did.

    Call it before jax starts its backend. It does nothing where an accelerator is to be
    used, and `enabled=False` or the environment's TRANSFORMER_TUNE=0 turns it off. What
    the user set himself (MALLOC_*, GLIBC_TUNABLES, a preloaded allocator, XLA_FLAGS)
    stays. flags: further XLA flags ("--xla_cpu_...=..."); those that the installed
    jaxlib does not know are skipped, because XLA would abort the process.
    """
    if not enabled or os.environ.get(SWITCH, "1") == "0":
        return Tuning(skipped=("turned off",))
    if not on_cpu():
        return Tuning(skipped=("not a CPU run",))
    chosen = _chosen(os.environ)
    if chosen:
        allocator, skipped = (), (f"allocator left as {chosen} sets it",)
    else:
        allocator, skipped = _keep_memory()
    given, refused = _add_flags([*_own_flags(), *flags])
    return Tuning(allocator, given, skipped + refused)


def on_cpu() -> bool:
    """Whether jax will compute on the CPU, asked without starting its backend: what
    JAX_PLATFORMS says, else whether any accelerator's plugin is installed."""
    asked = os.environ.get("JAX_PLATFORMS", "")
    if asked:
        return asked.split(",")[0] == "cpu"
    plugins = importlib.util.find_spec("jax_plugins")
    places = plugins.submodule_search_locations if plugins else None
    if any(True for _ in pkgutil.iter_modules(list(places or ()))):
        return False
    return importlib.util.find_spec("libtpu") is None


def compute_dtype() -> str:
    """The fastest dtype for products: "bfloat16" on accelerators and on CPUs that
    multiply it (AVX-512 BF16, AMX), elsewhere "float32"."""
    if not on_cpu():
        return "bfloat16"
    return "bfloat16" if {"avx512_bf16", "amx_bf16"} & _cpu_features() else "float32"


@functools.cache
def knows_flag(flag: str) -> bool:
    """Whether the installed jaxlib takes the XLA flag "--name=value": tried in a
    process of its own, unless that was done before, because XLA aborts at one that it
    does not know."""
    if _jaxlib() in TAKEN.get(flag, ()):
        return True
    environment = {**os.environ, "XLA_FLAGS": flag, "JAX_PLATFORMS": "cpu"}
    probe = [sys.executable, "-c", "import jax; jax.devices()"]
    done = subprocess.run(probe, env=environment, capture_output=True, check=False)
    return done.returncode == 0


def _chosen(environment: Mapping[str, str]) -> str:
    """The variable by which the user has chosen an allocator's behaviour, or ""."""
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
    # Not a loop that stops at the first refusal: each helps by itself.
    done = [name for name, option in MALLOPT.items() if mallopt(*option) == 1]
    return tuple(done), ()


def _own_flags() -> list[str]:
    """The flags that make this code faster on this CPU, with this jaxlib."""
    helps = "avx512_bf16" in _cpu_features() and _jaxlib() >= WIDE_SINCE
    return [WIDE] if helps else []


def _jaxlib() -> tuple[int, int]:
    """Its version's first two numbers."""
    major, minor = importlib.metadata.version("jaxlib").split(".")[:2]
    return int(major), int(minor)


def _add_flags(flags: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    present = os.environ.get("XLA_FLAGS", "")
    taken = {flag.split("=")[0] for flag in present.split()}
    given, refused = [], []
    for flag in flags:
        if flag.split("=")[0] in taken:
            refused.append(f"{flag} left as XLA_FLAGS sets it")
        elif not knows_flag(flag):
            refused.append(f"{flag} unknown to this jaxlib")
        else:
            given.append(flag)
    if given:
        os.environ["XLA_FLAGS"] = " ".join([*present.split(), *given])
    return tuple(given), tuple(refused)


def _cpu_features() -> set[str]:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return set()
    flags = next((line for line in lines if line.startswith("flags")), "")
    return set(flags.split())
