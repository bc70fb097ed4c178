"""Decoders of transformers: equal logits, equal greedy texts, equal files back.

The fixtures are folders of tiny models with the numbers of transformers, made by
make_fixtures.py. A ratio is the largest difference of float32 logits over their spread.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import parity
import pytest
import safetensors.numpy

from transformer import axes
from transformer.generation import decoding, logit_filters
from transformer.interchange import folder, tensor_files
from transformer.models import decoder
from transformer.network import masks
from transformer.training.checksum import leaf_paths

FIXTURES = Path(__file__).parent / "fixtures"
# Of one machine (`parity.check`).
RATIOS = {
    "gemma": 1.4e-6,
    "gemma2": 1.8e-6,
    "gemma3": 6.6e-6,
    "glm4_moe": 2.6e-6,
    "gpt2": 1.2e-6,
    "gpt_neox": 1.1e-6,
    "gpt_oss": 2.0e-6,
    "llama": 2.1e-6,
    "llama31": 1.9e-6,
    "llama_biased": 1.7e-6,
    "mistral": 1.6e-6,
    "mixtral": 1.1e-6,
    "olmo2": 4.1e-6,
    "phi3": 3.9e-6,
    "phi3_longrope": 4.0e-6,
    "qwen2": 2.3e-6,
    "qwen2_moe": 1.4e-6,
    "qwen3": 3.0e-6,
    "qwen3_biased": 1.4e-6,
    "qwen3_moe": 1.6e-6,
}
MESH: Any = {"data": 2, "fsdp": 2, "tensor": 2}


def logits(opened: folder.PretrainedFolder, params, ids_BL) -> np.ndarray:
    tokens = masks.single_document(ids_BL.shape[1])

    def apply(params, ids_BL):
        return decoder.logits(opened.net.apply({"params": params}, ids_BL, tokens))

    return np.asarray(jax.jit(apply)(params, ids_BL))


@pytest.mark.parametrize("name", RATIOS)
def test_logits_and_greedy_texts_are_those_of_transformers(name: str) -> None:
    opened = folder.open_folder(FIXTURES / name)
    params = opened.read_params()
    reference = np.load(FIXTURES / name / "reference.npz")
    ids_BL, expected = jnp.asarray(reference["ids_BL"]), reference["logits_BLV"]
    ours = logits(opened, params, ids_BL)
    parity.check(name, "logits", ours, expected, RATIOS[name])

    rows, length = ids_BL.shape
    new_tokens = reference["greedy_BL"].shape[1] - length
    fns = decoding.decode_fns(opened.net, jnp.float32)

    def generate(params, ids_BL):
        return decoding.generate(
            fns,
            params,
            ids_BL,
            jnp.full(rows, length),
            jax.random.key(0),
            choose=logit_filters.greedy,
            new_tokens=new_tokens,
        )

    texts = jax.jit(generate)(params, ids_BL).ids_BL
    np.testing.assert_array_equal(texts, reference["greedy_BL"])


# Layers of two kinds, none of them twice in these few (test_periods.py).
UNROLLED = {"gemma2", "gemma3", "gpt_oss"}
STACKS = [(name, False) for name in RATIOS]
STACKS += [(name, True) for name in RATIOS if name not in UNROLLED]


@pytest.mark.parametrize(("name", "scanned"), STACKS)
def test_a_folder_is_written_back_to_the_bit(name, scanned, tmp_path) -> None:
    """Sharded over eight devices, in several files, of either stack."""
    opened = folder.open_folder(FIXTURES / name, scanned=scanned)
    params = opened.read_params(axes.make_mesh(**MESH))
    how = {"max_shard_bytes": 20_000, "companions": {"tokenizer.json": b"{}"}}
    made = opened.architecture, opened.sizes, params
    folder.write_folder(tmp_path / "out", *made, **how)
    theirs = tensor_files.open_tensors(FIXTURES / name)
    ours = tensor_files.open_tensors(tmp_path / "out")
    assert theirs.keys() == ours.keys()
    assert len({tensor.file for tensor in ours.values()}) > 1
    for key, tensor in theirs.items():
        assert tensor.dtype == ours[key].dtype
        np.testing.assert_array_equal(tensor.read(), ours[key].read())
    again = folder.open_folder(tmp_path / "out")
    assert again.sizes == opened.sizes._replace(scanned=False)
    assert folder.companions_of(tmp_path / "out") == {"tokenizer.json": b"{}"}


def test_scanned_layers_equal_unrolled_ones() -> None:
    ids_BL = jnp.asarray(np.load(FIXTURES / "llama/reference.npz")["ids_BL"])
    one, other = (
        folder.open_folder(FIXTURES / "llama", scanned=scanned)
        for scanned in (False, True)
    )
    np.testing.assert_allclose(
        logits(one, one.read_params(), ids_BL),
        logits(other, other.read_params(), ids_BL),
        atol=1e-5,
    )


def test_parameters_lie_where_their_names_say() -> None:
    """On the mesh, each device has its part of the file's values."""
    opened = folder.open_folder(FIXTURES / "llama")
    mesh = axes.make_mesh(**MESH)
    whole, parts = opened.read_params(), opened.read_params(mesh)
    for path, leaf in leaf_paths(parts).items():
        np.testing.assert_array_equal(leaf, leaf_paths(whole)[path])
    w_q_DHK = leaf_paths(parts)["stack/layers_0/attention/w_q_DHK"]
    assert w_q_DHK.addressable_shards[0].data.shape == (12, 2, 8)


def test_bfloat16_files_come_back_in_bfloat16(tmp_path) -> None:
    """Gains too: the file's dtype is that of the export, not of memory."""
    opened = folder.open_folder(FIXTURES / "llama")
    made = opened.architecture, opened.sizes
    folder.write_folder(tmp_path / "a", *made, opened.read_params(), dtypes="BF16")
    narrow = folder.open_folder(tmp_path / "a")
    assert {tensor.dtype for tensor in narrow.tensors.values()} == {"BF16"}
    dtypes = {name: tensor.dtype for name, tensor in narrow.tensors.items()}
    folder.write_folder(tmp_path / "b", *made, narrow.read_params(), dtypes=dtypes)
    for name, tensor in tensor_files.open_tensors(tmp_path / "b").items():
        np.testing.assert_array_equal(tensor.read(), narrow.tensors[name].read())


def test_a_layer_that_predicts_one_more_token_is_left_out_aloud(tmp_path, capsys):
    """Of GLM-4.5; a layer beyond it is refused."""
    shutil.copytree(FIXTURES / "glm4_moe", tmp_path / "model")
    file = tmp_path / "model" / tensor_files.SINGLE
    tensors = safetensors.numpy.load_file(file)
    extra = np.zeros((2, 2), np.float32)
    tensors |= {"model.layers.3.eh_proj.weight": extra}
    safetensors.numpy.save_file(tensors, file)
    folder.open_folder(tmp_path / "model")
    assert "1 tensors are left out: a layer that predicts" in capsys.readouterr().out
    tensors |= {"model.layers.4.eh_proj.weight": extra}
    safetensors.numpy.save_file(tensors, file)
    with pytest.raises(ValueError, match="left over: model.layers.4.eh_proj"):
        folder.open_folder(tmp_path / "model")
