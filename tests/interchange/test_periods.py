"""Layers that differ by period as one scan: the same files, logits and greedy texts."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from transformer import axes
from transformer.generation import decoding, logit_filters
from transformer.interchange import folder
from transformer.interchange.architectures.decoders import GLOBAL, LOCAL
from transformer.models import decoder
from transformer.network import masks, stack

FIXTURES = Path(__file__).parent / "fixtures"
# Layers of each, and how they are cut: start, blocks of a period, repetitions.
PERIODS: dict[str, tuple[list[str], list[tuple[int, int, int]]]] = {
    "gemma2": ([LOCAL, GLOBAL] * 2, [(0, 2, 2)]),
    "gemma3": ([LOCAL, LOCAL, GLOBAL] * 2 + [LOCAL], [(0, 3, 2), (6, 1, 1)]),
    "gpt_oss": ([LOCAL, GLOBAL] * 2, [(0, 2, 2)]),
    "modernbert": (
        [GLOBAL, LOCAL, LOCAL, GLOBAL, LOCAL, LOCAL, GLOBAL],
        [(0, 1, 1), (1, 3, 2)],
    ),
}
MESH: Any = {"data": 2, "fsdp": 2, "tensor": 2}


def write_periodic(name: str, path: Path) -> Any:
    """A folder of the fixture's sizes with these layers, and the parameters."""
    made, sizes = folder.read_config(FIXTURES / name)
    layers = tuple(PERIODS[name][0])
    if name == "modernbert":
        sizes = sizes._replace(blocks=sizes.blocks._replace(depth=len(layers)))
    else:
        sizes = sizes._replace(depth=len(layers))
    sizes = sizes._replace(layers=layers)
    net = made.net(sizes)
    shapes = jax.eval_shape(lambda: made.init(net, jax.random.key(0)))
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda a: jnp.asarray(0.2 * rng.standard_normal(a.shape), a.dtype), shapes
    )
    folder.write_folder(path, made, sizes, params)
    return params


@pytest.mark.parametrize("name", PERIODS)
def test_files_hold_scanned_periods_too(name: str, tmp_path: Path) -> None:
    """To the bit, sharded over eight devices."""
    params = write_periodic(name, tmp_path / "one")
    opened = folder.open_folder(tmp_path / "one", scanned=True)
    assert opened.architecture.layers_repeat(opened.sizes)
    got = opened.read_params(axes.make_mesh(**MESH))
    found = [stack.Section(*cut) for cut in PERIODS[name][1]]
    expected = params | {"stack": stack.stack_layer_params(params["stack"], found)}
    jax.tree.map(np.testing.assert_array_equal, got, expected)
    folder.write_folder(tmp_path / "two", opened.architecture, opened.sizes, got)
    for file in ("model.safetensors", "config.json"):
        one, two = (tmp_path / path / file for path in ("one", "two"))
        assert one.read_bytes() == two.read_bytes()


def test_logits_and_greedy_texts_of_periods(tmp_path: Path) -> None:
    """Of Gemma 3: windows roll in caches of their own length."""
    write_periodic("gemma3", tmp_path / "model")
    ids_BL = jnp.asarray(np.load(FIXTURES / "gemma3/reference.npz")["ids_BL"])
    rows, length = ids_BL.shape

    def run(scanned: bool) -> Any:
        opened = folder.open_folder(tmp_path / "model", scanned=scanned)

        @jax.jit
        def both(params: Any) -> Any:
            tokens = masks.single_document(length)
            readout: Any = opened.net.apply({"params": params}, ids_BL, tokens)
            state = decoding.generate(
                decoding.decode_fns(opened.net, jnp.float32),
                params,
                ids_BL,
                jnp.full(rows, length),
                jax.random.key(0),
                choose=logit_filters.greedy,
                new_tokens=8,
            )
            return decoder.logits(readout), state.ids_BL

        return both(opened.read_params())

    def run_unrolled_after_the_prompts() -> Any:
        opened = folder.open_folder(tmp_path / "model", scanned=True)
        fns = decoding.decode_fns(opened.net, jnp.float32)
        start = partial(decoding.prefill, fns, new_tokens=8)
        params, lengths_B = opened.read_params(), jnp.full(rows, length)
        state = jax.jit(start)(params, ids_BL, lengths_B, jax.random.key(0))
        unrolled = decoding.unroll_layers_on_cpu(fns, params, state)
        options = {"choose": logit_filters.greedy, "tokens": 8}
        decode = partial(decoding.decode, unrolled[0], **options)
        return jax.jit(decode)(*unrolled[1:]).ids_BL

    (logits, texts), (logits_scanned, texts_scanned) = run(False), run(True)
    np.testing.assert_allclose(logits, logits_scanned, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(texts, texts_scanned)
    np.testing.assert_array_equal(texts, run_unrolled_after_the_prompts())
