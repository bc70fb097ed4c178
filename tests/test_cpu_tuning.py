"""Allocator options and XLA flags are set on CPUs, and the user's stay."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from transformer import cpu_tuning

ALL = tuple(cpu_tuning.MALLOPT)


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """A CPU run without settings of the user."""
    for name in list(os.environ):
        if name.startswith("MALLOC_") or name in (
            "GLIBC_TUNABLES",
            "LD_PRELOAD",
            "XLA_FLAGS",
            cpu_tuning.SWITCH,
        ):
            monkeypatch.delenv(name)
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    monkeypatch.setattr(cpu_tuning, "cpu_features", lambda: {"avx2", "avx512f"})
    # This process runs other tests too: its allocator is left alone.
    monkeypatch.setattr(cpu_tuning, "_keep_memory", lambda: (ALL, ()))


def test_cpu_run_is_tuned() -> None:
    tuning = cpu_tuning.tune()
    assert tuning == cpu_tuning.Tuning(allocator=ALL)
    assert str(tuning) == "tuned: M_ARENA_MAX, M_MMAP_MAX, M_TRIM_THRESHOLD"
    assert "XLA_FLAGS" not in os.environ


def test_vectors_are_wide_on_recent_cpus_and_jaxlibs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cpu_tuning, "cpu_features", lambda: {"avx512_bf16"})
    monkeypatch.setattr(cpu_tuning, "_jaxlib_version", lambda: (0, 12))
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_enable_fast_math=false")
    assert cpu_tuning.tune().flags == (cpu_tuning.WIDE_VECTORS,)
    expected = "--xla_cpu_enable_fast_math=false --xla_cpu_prefer_vector_width=512"
    assert os.environ["XLA_FLAGS"] == expected
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_prefer_vector_width=256")
    assert cpu_tuning.tune().flags == ()
    monkeypatch.delenv("XLA_FLAGS")
    monkeypatch.setattr(cpu_tuning, "_jaxlib_version", lambda: (0, 10))
    assert cpu_tuning.tune().flags == ()


def test_accepted_flags_are_known_to_this_jaxlib(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cpu_tuning, "ACCEPTED", {})
    cpu_tuning.knows_flag.cache_clear()
    assert cpu_tuning.knows_flag(cpu_tuning.WIDE_VECTORS)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's mallopt")
def test_allocator_accepts_the_options() -> None:
    program = (
        "from transformer import cpu_tuning as c; before = c.has_one_arena(); "
        "print(c._keep_memory()[0], before, c.has_one_arena())"
    )
    process = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert process.stdout.strip() in (f"{ALL} False True", "() False False")


def test_tuning_is_turned_off_by_argument_or_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    off = cpu_tuning.Tuning(skipped=("turned off",))
    assert cpu_tuning.tune(enabled=False) == off
    monkeypatch.setenv(cpu_tuning.SWITCH, "0")
    assert cpu_tuning.tune() == off


def test_accelerators_are_not_tuned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAX_PLATFORMS", "cuda,cpu")
    assert cpu_tuning.tune(flags=["--xla_cpu_use_onednn=true"]).skipped
    assert cpu_tuning.compute_dtype() == "bfloat16"
    assert "XLA_FLAGS" not in os.environ


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("MALLOC_ARENA_MAX", "4"),
        ("GLIBC_TUNABLES", "glibc.malloc.trim_threshold=1"),
        ("LD_PRELOAD", "/usr/lib/libtcmalloc_minimal.so.4"),
    ],
)
def test_allocator_of_the_user_stays(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    tuning = cpu_tuning.tune()
    assert tuning.allocator == () and name in str(tuning)


def test_flags_of_the_user_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_use_onednn=false")
    monkeypatch.setattr(cpu_tuning, "knows_flag", lambda flag: "nonsense" not in flag)
    known = "--xla_cpu_enable_fast_math=true"
    flags = ["--xla_cpu_use_onednn=true", known, "--xla_nonsense=1"]
    tuning = cpu_tuning.tune(flags=flags)
    assert tuning.flags == (known,) and len(tuning.skipped) == 2
    assert os.environ["XLA_FLAGS"] == f"--xla_cpu_use_onednn=false {known}"


def test_unknown_flags_are_recognized() -> None:
    assert cpu_tuning.knows_flag("--xla_cpu_enable_fast_math=true")
    assert not cpu_tuning.knows_flag("--xla_nonsense=1")


def test_compute_dtype_follows_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_tuning, "cpu_features", lambda: {"avx2", "avx512f"})
    assert cpu_tuning.compute_dtype() == "float32"
    monkeypatch.setattr(cpu_tuning, "cpu_features", lambda: {"avx512_bf16"})
    assert cpu_tuning.compute_dtype() == "bfloat16"
