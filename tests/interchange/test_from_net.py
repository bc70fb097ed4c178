"""A net of ours is exported if each of its slots is one of an architecture there."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import vllm_folder

from experiments import qwen3
from transformer import main
from transformer.data.text import tokenizers
from transformer.interchange import folder, from_net
from transformer.interchange import tokenizer as tokenizer_
from transformer.models import decoder, defaults
from transformer.network import masks, mlp, norms
from transformer.training import loop

BYTES = tokenizers.bytes_()
SIZES = {"depth": 1, "width": 64, "heads": 1, "kv_heads": 1}
NET = from_net.language_model(vocab_size=257, **SIZES)
ROWS: Any = {"length": 16}


def with_slots(**slots: Any) -> decoder.Decoder:
    """`NET` with other slots of its blocks."""
    stack: Any = NET.make_stack()

    def make_block(block: Any, layer: int) -> Any:
        return stack.make_block(block, layer).clone(**slots)

    return NET.clone(make_stack=partial(type(stack), 1, make_block))


ATTENTION: Any = NET.make_stack().make_block(NET.make_stack().block, 0).make_attention()
OTHERS = {
    "make_embedding_norm (RMSNorm, not Identity)": NET.clone(
        make_embedding_norm=norms.RMSNorm
    ),
    "embedding_scale (8.0, not 1.0)": NET.clone(embedding_scale=8.0),
    "make_norm (LayerNorm, not RMSNorm)": NET.clone(make_norm=norms.LayerNorm),
    "block.make_mlp (MLP, not GatedMLP)": with_slots(
        make_mlp=partial(mlp.MLP, width=64, hidden_features=160)
    ),
    "block.make_attention.mask": with_slots(
        make_attention=partial(
            ATTENTION.clone, mask=decoder.CAUSAL_IN_DOCUMENT & masks.window(3)
        )
    ),
    "block.make_attention.score_scale (0.1, not None)": with_slots(
        make_attention=partial(ATTENTION.clone, score_scale=0.1)
    ),
    "block.make_mlp.activation (relu_squared, not silu)": with_slots(
        make_mlp=partial(
            mlp.GatedMLP,
            width=64,
            hidden_features=160,
            activation=defaults.relu_squared,
        )
    ),
}


@pytest.mark.parametrize("difference", OTHERS)
def test_a_slot_that_differs_is_named(difference: str) -> None:
    with pytest.raises(ValueError) as refused:
        from_net.find(OTHERS[difference], BYTES, **ROWS)
    line = str(refused.value)
    assert (
        f"those of Qwen3ForCausalLM differ in {difference}" in line
        and ";" not in (line.partition("differ in ")[2])
    )


def test_our_own_default_is_refused_by_name() -> None:
    net = decoder.language_model(depth=1, vocab_size=257)
    with pytest.raises(ValueError, match=r"make_mlp \(MLP.*make_embedding_norm \(RMS"):
        from_net.find(net, BYTES, **ROWS)
    with pytest.raises(ValueError, match="expected a decoder, got LayerNorm"):
        from_net.find(norms.LayerNorm(), BYTES, **ROWS)


def test_kinds_of_the_family_are_found() -> None:
    """Whatever the kernels and the first values are."""
    plain = with_slots(
        make_attention=partial(
            ATTENTION.clone, head_norm=norms.Identity, make_mixer=defaults.ROW_BLOCKED
        )
    ).clone(unembed=decoder.tied_unembedding, weight_init=jax.nn.initializers.zeros)
    found = from_net.find(plain, BYTES, **ROWS)
    assert found.architecture.name(found.sizes) == "LlamaForCausalLM"
    assert found.sizes.tied


def test_a_run_is_exported_with_its_tokenizer(tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("the cat and the hen, naïve €5\n" * 300)
    flags: Any = {"steps": 1, "batch_size": 8, "sequence_length": 16, "depth": 1}
    flags |= {"text": str(text), "vocab_size": 280, "dtype": "float32"}
    state = main.run(qwen3.experiment, tmp_path / "run", **flags)
    made = qwen3.experiment(workdir=tmp_path / "run", **flags)
    out = made.verbs["export"](loop.params_of(state), tmp_path / "run")
    opened = folder.open_folder(out)
    params = opened.read_params()
    jax.tree.map(np.testing.assert_array_equal, params, loop.params_of(state))
    ids_BL, tokens = np.arange(12)[None], masks.single_document(12)
    ours, theirs = (
        decoder.logits(net.apply({"params": params}, ids_BL, tokens))
        for net in (made.net, opened.net)
    )
    np.testing.assert_allclose(ours, theirs, atol=1e-5)
    vllm_folder.check(out)
    gguf = made.verbs["export"](params, tmp_path / "run", format="gguf")
    assert folder.read_config(gguf)[1] == opened.sizes
    for place in (out, gguf):
        again = tokenizer_.read_tokenizer(place)
        assert again.end == made.tokenizer.end
        for line in ("the hen, naïve €5", "a b\n\tc", "\U0001f600"):
            ids = again.encode(line)
            np.testing.assert_array_equal(ids, made.tokenizer.encode(line))
            assert again.decode(ids) == line
