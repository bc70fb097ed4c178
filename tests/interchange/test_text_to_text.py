"""Encoder-decoders of transformers: equal logits, equal greedy texts, equal files back;
as `test_decoders.py`."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import parity
import pytest

from transformer import axes
from transformer.generation import beam_search, decoding, logit_filters
from transformer.interchange import folder, tensor_files
from transformer.models import decoder
from transformer.network import masks
from transformer.training.checksum import leaf_paths

FIXTURES = Path(__file__).parent / "fixtures"
RATIOS = {"t5": 2.1e-6, "t5_v1_1": 8.7e-6, "whisper": 1.2e-6, "marian": 4.5e-6}
MESH: Any = {"data": 2, "fsdp": 2, "tensor": 2}
every_model = pytest.mark.parametrize("name", RATIOS)


def inputs_of(reference: Any) -> tuple[jax.Array, masks.TokenPositions]:
    """Sources and their positions; 0 is padding. Frames of sound, two for each token,
    are never padded."""
    if "raw_BLP" in reference:
        raw_BLP = jnp.asarray(reference["raw_BLP"])
        return raw_BLP, masks.single_document(raw_BLP.shape[1] // 2)
    source_BL = jnp.asarray(reference["source_BL"])
    return source_BL, masks.padded(source_BL, 0)


def logits_of(net: Any, params: Any, reference: Any) -> np.ndarray:
    source_BL, source = inputs_of(reference)
    ids_BL = jnp.asarray(reference["ids_BL"])
    target = masks.single_document(ids_BL.shape[1])

    def apply(params: Any, source_BL: jax.Array, ids_BL: jax.Array) -> jax.Array:
        readout = net.apply({"params": params}, source_BL, source, ids_BL, target)
        return decoder.logits(readout)

    return np.asarray(jax.jit(apply)(params, source_BL, ids_BL))


@functools.cache
def unsharded_logits(name: str) -> np.ndarray:
    opened = folder.open_folder(FIXTURES / name)
    reference = np.load(FIXTURES / name / "reference.npz")
    return logits_of(opened.net, opened.read_params(), reference)


@every_model
def test_logits_are_those_of_transformers(name: str) -> None:
    expected = np.load(FIXTURES / name / "reference.npz")["logits_BLV"]
    parity.check(name, "logits", unsharded_logits(name), expected, RATIOS[name])


@every_model
def test_eight_devices_give_the_logits_of_one(name: str) -> None:
    opened = folder.open_folder(FIXTURES / name)
    reference = np.load(FIXTURES / name / "reference.npz")
    expected, mesh = unsharded_logits(name), axes.make_mesh(**MESH)
    with jax.set_mesh(mesh):
        got = logits_of(opened.net, opened.read_params(mesh), reference)
    np.testing.assert_allclose(got, expected, atol=1e-4 * expected.std())


@every_model
def test_greedy_texts_are_those_of_transformers(name: str) -> None:
    opened = folder.open_folder(FIXTURES / name)
    reference = np.load(FIXTURES / name / "reference.npz")
    source_BL, source = inputs_of(reference)
    expected_BL = reference["greedy_BL"]
    net, rows = opened.net, len(expected_BL)

    def generate(params: Any, source_BL: jax.Array) -> jax.Array:
        weights = {"params": params}
        memory = net.apply(weights, source_BL, source, method="cache_memory")
        fns = decoding.decode_fns(net, jnp.float32)
        return decoding.generate(
            beam_search.with_cross_cache(fns, memory),
            params,
            jnp.asarray(expected_BL[:, :1]),
            jnp.ones(rows, jnp.int32),
            jax.random.key(0),
            choose=logit_filters.greedy,
            new_tokens=expected_BL.shape[1] - 1,
        ).ids_BL

    texts_BL = jax.jit(generate)(opened.read_params(), source_BL)
    np.testing.assert_array_equal(texts_BL, expected_BL)


@every_model
def test_a_folder_is_written_back_to_the_bit(name: str, tmp_path: Path) -> None:
    opened = folder.open_folder(FIXTURES / name)
    params = opened.read_params(axes.make_mesh(**MESH))
    made = opened.architecture, opened.sizes, params
    folder.write_folder(tmp_path / "out", *made, max_shard_bytes=20_000)
    theirs = tensor_files.open_tensors(FIXTURES / name)
    ours = tensor_files.open_tensors(tmp_path / "out")
    assert theirs.keys() == ours.keys()
    for key, tensor in theirs.items():
        np.testing.assert_array_equal(tensor.read(), ours[key].read())
    assert folder.open_folder(tmp_path / "out").sizes == opened.sizes


def test_scanned_layers_equal_unrolled_ones() -> None:
    reference = np.load(FIXTURES / "whisper" / "reference.npz")
    scanned = folder.open_folder(FIXTURES / "whisper", scanned=True)
    expected = unsharded_logits("whisper")
    got = logits_of(scanned.net, scanned.read_params(), reference)
    np.testing.assert_allclose(got, expected, atol=1e-5 * expected.std())


def test_a_stack_has_one_bias_and_the_net_one_embedding() -> None:
    """Not copies, which would diverge in training."""
    opened = folder.open_folder(FIXTURES / "t5")
    paths = list(leaf_paths(opened.abstract_params))
    shared = [path for path in paths if path.endswith(("bias_CH", "embedding_VD"))]
    assert sorted(shared) == [
        "decoder_stack/bias/bias_CH",
        "embedding_VD",
        "encoder_stack/bias/bias_CH",
    ]


def test_layers_that_share_a_bias_are_not_scanned() -> None:
    opened = folder.open_folder(FIXTURES / "t5")
    assert not opened.architecture.layers_repeat(opened.sizes)
    with pytest.raises(ValueError, match="expected scanned=False"):
        folder.open_folder(FIXTURES / "t5", scanned=True)
