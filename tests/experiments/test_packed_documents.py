"""Packed = alone: in every experiment whose rows hold several documents, a document has
the logits and the loss that it has alone in its row."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from cases import close, random_params

from experiments import language_model, moe, translate
from transformer.data.text import packing, sentence_pairs
from transformer.models import decoder
from transformer.network import masks

LENGTH = 24
RNG = np.random.default_rng(0)
TINY = {"depth": 1, "sequence_length": LENGTH, "dtype": "float32", "steps": 3}
# The experiments that pack (test_experiments.py holds the list against all), and the
# sums of their losses that must add.
ADDED = {
    "language_model": ("nats", "bytes", "correct", "tokens"),
    "moe": ("nats", "bytes", "correct", "tokens", "moe_nats"),
    "translate": ("nats", "bytes", "correct", "tokens"),
}


def document(size: int, end: int) -> np.ndarray:
    return np.append(RNG.integers(0, end, size - 1), end).astype(np.int32)


def text_rows(rows: list[list[np.ndarray]]) -> dict[str, np.ndarray]:
    """As `packing` makes them: consecutive documents, padding behind the last."""
    end = int(rows[0][0][-1])
    sizes = np.array([min(LENGTH + 1, sum(map(len, row))) for row in rows])
    windows = [np.concatenate([*row, np.zeros(LENGTH + 1, int)]) for row in rows]
    window = np.stack([one[: LENGTH + 1] for one in windows])
    return packing.shift_targets(window, end=end, sizes=sizes)


def pair_rows(rows: list[list[Any]]) -> dict[str, np.ndarray]:
    end = int(rows[0][0].source[-1])
    packed = [sentence_pairs.packed_row(row, LENGTH, end=end) for row in rows]
    return {name: np.stack([row[name] for row in packed]) for name in packed[0]}


def text_logits(net: Any, params: Any, batch: Any) -> jax.Array:
    tokens = masks.packed(batch["segment_BL"], batch["position_BL"])
    return decoder.logits(net.apply({"params": params}, batch["ids_BL"], tokens))


def models(name: str, folder: Path) -> tuple[Any, Any, list[Any]]:
    """(experiment, params, functions from a batch to logits)."""
    if name == "language_model":
        made = language_model.experiment(tokenizer="bytes", **TINY)
    elif name == "moe":
        made = moe.experiment(
            tokenizer="bytes", **TINY, width=64, experts=4, expert_width=16
        )
    else:
        table = folder / "en_pt.tsv"
        table.write_text("".join(f"house {n}\tcasa {n}\n" for n in range(200)))
        pairs = {"source": str(table), "direction": "first-second"}
        made = translate.experiment(
            width=64, vocab_size=300, batch_size=2, **TINY, **pairs
        )
    params = random_params(made.net, init_params=lambda net, key: made.init(key))
    if name == "moe":
        return (
            made,
            params,
            [lambda b, n=n: text_logits(made.net[n], params[n], b) for n in params],
        )
    if name == "language_model":
        return made, params, [lambda b: text_logits(made.net, params, b)]
    return (
        made,
        params,
        [lambda b: decoder.logits(translate.apply(made.net, params, b))],
    )


@pytest.mark.parametrize("name", ADDED)
def test_packed_equals_alone(name: str, tmp_path: Path) -> None:
    made, params, logits = models(name, tmp_path)
    end = made.tokenizer.end
    sizes = [(5, 11, 8), (9, 2, 13)]
    if name == "translate":
        pair = sentence_pairs.Pair
        rows = [[pair(document(n, end), document(3 + n // 2, end)) for n in row]
                for row in sizes]  # fmt: skip
        batch_of = pair_rows
    else:
        rows = [[document(n, end) for n in row] for row in sizes]
        batch_of = text_rows
    together = batch_of(rows)
    assert together["segment_BL"].max() == 3
    alone = batch_of([[one] for row in rows for one in row])
    for function in logits:
        jitted = jax.jit(function)
        packed_BLV, apart_BLV = (np.asarray(jitted(b)) for b in (together, alone))
        for number in range(6):
            row, segment = divmod(number, 3)
            here_L = together["segment_BL"][row] == segment + 1
            there_L = alone["segment_BL"][number] == 1
            assert here_L.sum() == there_L[: here_L.sum()].sum()
            close(packed_BLV[row][here_L], apart_BLV[number][: here_L.sum()], 2e-5)
    loss = jax.jit(lambda b: made.loss(params, b, jax.random.key(0)).sums)
    packed, apart = loss(together), loss(alone)
    for key in ADDED[name]:
        np.testing.assert_allclose(packed[key], apart[key], rtol=2e-5, err_msg=key)
