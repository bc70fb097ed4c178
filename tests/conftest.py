"""Eight simulated devices for every test, set before jax is imported."""

import gc
import os
from importlib.metadata import version

os.environ["JAX_PLATFORMS"] = "cpu"
# Tests compile much and compute little: without optimisation they take a quarter.
FLAGS = [
    "--xla_force_host_platform_device_count=8",
    "--xla_backend_optimization_level=0",
]
if version("jaxlib").startswith("0.10."):  # later ones do not know it
    FLAGS.append("--xla_cpu_use_fusion_emitters=false")
os.environ["XLA_FLAGS"] = " ".join([*FLAGS, os.environ.get("XLA_FLAGS", "")])

import jax  # noqa: E402

jax.config.update("jax_numpy_rank_promotion", "raise")

# Tracing makes many objects that live long.
gc.set_threshold(200_000, 20, 100)
