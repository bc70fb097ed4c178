"""Eight simulated devices for every test, set before jax is imported."""

import gc
import os
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ["JAX_PLATFORMS"] = "cpu"
# Else each process compiles every module anew.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
# Tests compile much and compute little: without optimisation they take a quarter.
FLAGS = [
    "--xla_force_host_platform_device_count=8",
    "--xla_backend_optimization_level=0",
    # A program in many parts compiles on many cores, and costs a quarter more in all.
    "--xla_cpu_parallel_codegen_split_count=1",
]
if version("jaxlib").startswith("0.10."):  # later ones do not know it
    FLAGS.append("--xla_cpu_use_fusion_emitters=false")
os.environ["XLA_FLAGS"] = " ".join([*FLAGS, os.environ.get("XLA_FLAGS", "")])

import jax  # noqa: E402
import pytest  # noqa: E402
from jax._src import compilation_cache  # noqa: E402

jax.config.update("jax_numpy_rank_promotion", "raise")

# Each command line traces its programs anew: the same one is compiled once a process.
# Kept in memory: JAX's files would be serialized and compressed, which costs more than
# it saves, and not shared by processes, since they are not written atomically.
PROGRAMS: dict[str, Any] = {}
compilation_cache.get_executable_and_time = lambda key, *_: (PROGRAMS.get(key), 0)
compilation_cache.put_executable_and_time = lambda key, _, program, *__: (
    PROGRAMS.setdefault(key, program)
)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)

# Tracing makes many objects that live long.
gc.set_threshold(200_000, 20, 100)


def pytest_sessionfinish():
    """Collects once, and leaves nothing for the ten collections of pytest's end."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="module")
def one_device():
    """One device, as most machines have: for command lines that are not about them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax, "devices", lambda *names: jax.local_devices()[:1])
        yield


# Cases of other tests that take long and that a cheaper case stands for.
NIGHTLY = set((Path(__file__).parent / "nightly.txt").read_text().splitlines())


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    for item in items:
        if item.nodeid in NIGHTLY:
            item.add_marker(pytest.mark.slow)
        # A case that the plain suite leaves out would be found out by night only.
        known = {"request", *item._fixtureinfo.name2fixturedefs}
        if missing := set(item.fixturenames) - known:
            raise pytest.UsageError(f"{item.nodeid}: no fixture {', '.join(missing)}")
