"""Measured cost of attention."""

from __future__ import annotations

import pytest

from transformer.evaluation import attention_cost
from transformer.network import attention, masks


def test_the_exponent_of_a_power_law_is_recovered() -> None:
    lengths = [256, 512, 1024]
    values = [3.0 * n**1.5 for n in lengths]
    exponent = attention_cost.scaling_exponent(lengths, values)
    assert exponent == pytest.approx(1.5)


def test_a_cost_counts_at_least_the_score_matrix() -> None:
    cost = attention_cost.cost(
        attention.dot_product_attention, masks.causal(), 64, repeats=1
    )
    assert cost.seconds > 0 and cost.bytes > 64 * 64 * 4 * 4
