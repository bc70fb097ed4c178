"""Write `programs/`: the texts of programs that libtpu compiled, for `test_costs`.

    pip install -e '.[plan]'
    python tests/planning/make_programs.py

A TPU writes products as convolutions, divides a gather into steps of other kernels, and
makes a reduce-scatter of an all-reduce and a slice: none of it can be seen on a CPU.
"""

from __future__ import annotations

import gzip
import os
from functools import partial
from pathlib import Path

FOLDER = Path(__file__).parent / "programs"
LAYERS, ROWS, WIDTH, HIDDEN = 4, 512, 512, 2048


def main() -> None:
    from transformer.planning import compilation

    os.environ.update(compilation.ENVIRONMENT)
    with compilation.exclusive():
        text = compile_fsdp()
    FOLDER.mkdir(exist_ok=True)
    with gzip.GzipFile(FOLDER / "fsdp_v5e.txt.gz", "wb", mtime=0) as file:
        file.write(text.encode())


def compile_fsdp() -> str:
    """A scan of MLPs and its gradients on eight chips, weights divided over fsdp."""
    import jax
    import jax.numpy as jnp
    from jax.sharding import PartitionSpec

    from transformer.planning import chips, compilation, hlo

    mesh = compilation.topology_mesh(chips.parse("v5e:2x4"), {"fsdp": 8})

    def loss(params: tuple, x_BD: jax.Array) -> jax.Array:
        def layer(x_BD: jax.Array, weights: tuple) -> tuple:
            up_DF, down_FD = (w.astype(jnp.bfloat16) for w in weights)
            return x_BD + jax.nn.relu(x_BD @ up_DF) @ down_FD, None

        return jnp.sum(jnp.square(jax.lax.scan(layer, x_BD, params)[0]))

    def update(params: tuple, x_BD: jax.Array) -> tuple:
        gradient = jax.grad(loss)(params, x_BD)
        return jax.tree.map(lambda p, g: p - 1e-3 * g, params, gradient)

    def abstract(shape: tuple, dtype: str, *axes: str | None) -> jax.ShapeDtypeStruct:
        sharding = jax.sharding.NamedSharding(mesh, PartitionSpec(*axes))
        return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)

    params = (
        abstract((LAYERS, WIDTH, HIDDEN), "float32", None, "fsdp"),
        abstract((LAYERS, HIDDEN, WIDTH), "float32", None, None, "fsdp"),
    )
    x_BD = abstract((ROWS, WIDTH), "bfloat16", "fsdp")
    out = jax.tree.map(lambda a: a.sharding, params)
    with jax.set_mesh(mesh):
        step = partial(jax.jit, out_shardings=out, donate_argnums=0)(update)
        text = step.lower(params, x_BD).compile().as_text()
    return hlo.without_metadata(text or "")


if __name__ == "__main__":
    main()
