"""Masked diffusion: which positions are masked at a time, and how they are unmasked."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from transformer.generation import process_sampler
from transformer.objectives import cross_entropy, denoising
from transformer.processes import masked_diffusion

KEY = jax.random.key(0)
MASK_ID = 9

corrupt = jax.jit(partial(masked_diffusion.corrupt, mask_id=MASK_ID))


def random_ids(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, MASK_ID, shape).astype(np.int32)


def test_corruption_masks_the_ratio_of_its_time_and_nothing_else() -> None:
    ids_BL = random_ids(5, 8)
    t_B = np.array([0.0, 1 / 3, 0.5, 2 / 3, 1.0])
    inputs, target, weight = map(np.asarray, corrupt(ids_BL, t_B, KEY))
    masked = inputs == MASK_ID
    # ceil(8 cos(pi t / 2)): all, 6.93, 5.66, 4, none.
    assert masked.sum(1).tolist() == [8, 7, 6, 4, 0]
    np.testing.assert_array_equal(weight, masked)
    np.testing.assert_array_equal(np.where(masked, ids_BL, inputs), ids_BL)
    np.testing.assert_array_equal(target, ids_BL)
    other = corrupt(ids_BL, t_B, jax.random.key(1))
    assert (np.asarray(other.inputs) != inputs).any()


def test_padding_is_never_masked_and_a_short_row_has_its_own_ratio() -> None:
    """Rows of 8, 5, 1 and 0 tokens at a ratio of 0.15, rounded up."""
    ids_BL = random_ids(4, 8)
    real_BL = np.arange(8)[None] < np.array([8, 5, 1, 0])[:, None]
    process = masked_diffusion.fixed_ratio_process(
        0.15, mask_id=MASK_ID, real_BL=real_BL
    )
    t_B = process.sample_time(KEY, 4)
    corrupt_real = jax.jit(process.corrupt)
    for seed in range(20):
        key = jax.random.key(seed)
        inputs, _, weight = map(np.asarray, corrupt_real(ids_BL, t_B, key))
        assert (weight * real_BL).sum(1).tolist() == [2, 1, 1, 0]
        assert not (weight * ~real_BL).any()
        np.testing.assert_array_equal(weight, inputs == MASK_ID)
        # A full row is masked as without padding.
        whole = np.asarray(corrupt(ids_BL, t_B, key).inputs)
        np.testing.assert_array_equal(whole[0], inputs[0])


def test_no_more_tokens_are_masked_than_the_bound() -> None:
    """At any ratio and length; the bound is at most two too many."""
    num_masked = jax.jit(masked_diffusion.num_masked)
    for ratio in (0.01, 0.15, 0.25, 1 / 3, 0.7, 1.0):
        time_B = masked_diffusion.constant_mask_ratio(ratio)(jax.random.key(0), 1)
        length_B = np.arange(1, 3000)
        masked_B = np.asarray(num_masked(time_B, length_B))
        bound_B = [masked_diffusion.max_masked(ratio, int(n)) for n in length_B]
        assert (masked_B <= bound_B).all() and (
            masked_B >= np.subtract(bound_B, 2)
        ).all()


def test_elbo_weights_of_a_row_sum_to_its_length() -> None:
    ids_BL = random_ids(5, 8)
    t_B = np.array([0.0, 1 / 3, 0.5, 2 / 3, 0.99])
    run = jax.jit(partial(masked_diffusion.corrupt_elbo_weighted, mask_id=MASK_ID))
    inputs, _, weight = map(np.asarray, run(ids_BL, t_B, KEY))
    np.testing.assert_allclose(weight.sum(1), 8, rtol=1e-6)
    np.testing.assert_array_equal(weight > 0, inputs == MASK_ID)


@pytest.mark.parametrize("ratio", [0.0, -0.1, 1.5])
def test_mask_ratios_outside_0_to_1_are_refused(ratio: float) -> None:
    with pytest.raises(ValueError, match=f"mask ratio: expected .* got {ratio}"):
        masked_diffusion.constant_mask_ratio(ratio)


@pytest.mark.parametrize("choice_temperature", [0.0, 4.5])
def test_unmasking_keeps_the_most_confident_and_all_unmasked_before(
    choice_temperature: float,
) -> None:
    best_BL = random_ids(2, 8)
    confidence_L = 20.0 + np.arange(8)
    logits_BLV = np.eye(MASK_ID + 1)[best_BL] * confidence_L[None, :, None]
    process = masked_diffusion.process(
        mask_id=MASK_ID, choice_temperature=choice_temperature
    )
    x = np.asarray(process.prior(KEY, best_BL))
    assert (x == MASK_ID).all()
    times = np.asarray(process.times(4))
    update = jax.jit(process.update)
    num_masked = jax.jit(masked_diffusion.num_masked)
    for number, (t, t_next) in enumerate(zip(times[:-1], times[1:], strict=True)):
        before = x
        key = jax.random.fold_in(KEY, number)
        x = np.asarray(update(x, logits_BLV, t, t_next, key))
        np.testing.assert_array_equal(x[before != MASK_ID], before[before != MASK_ID])
        count = int(num_masked(t_next, 8))
        assert ((x == MASK_ID).sum(1) == count).all()
        if not choice_temperature:
            assert (x[:, :count] == MASK_ID).all()
    np.testing.assert_array_equal(x, best_BL)


@pytest.mark.parametrize("choice_temperature", [0.0, 3.0, 6.0])
def test_choice_temperature_sets_how_often_a_position_is_kept(
    choice_temperature: float,
) -> None:
    """Of two positions, one certain and one of n equally likely tokens, one is kept:
    the certain one in 1 of 1 + n ** (-1 / c) samples, c = choice temperature times (1 -
    t_next).
    """
    logits_BLV = np.zeros((20_000, 2, MASK_ID + 1), np.float32)
    logits_BLV[:, 0, 3] = 50.0
    process = masked_diffusion.process(
        mask_id=MASK_ID, choice_temperature=choice_temperature
    )
    masked_BL = np.full((20_000, 2), MASK_ID)
    got = jax.jit(process.update)(masked_BL, logits_BLV, 0.0, 2 / 3, KEY)
    got = np.asarray(got)
    assert ((got == MASK_ID).sum(1) == 1).all()
    expected = {0.0: 1.0, 3.0: MASK_ID / (MASK_ID + 1), 6.0: 3 / (3 + 1)}
    assert float((got[:, 0] == 3).mean()) == pytest.approx(
        expected[choice_temperature], abs=0.01
    )


def test_unmasked_tokens_stay_whatever_is_predicted_later() -> None:
    process = masked_diffusion.process(mask_id=MASK_ID)
    x, times = np.full((2, 8), MASK_ID), np.asarray(process.times(6))
    update, rng = jax.jit(process.update), np.random.default_rng(0)
    for number, (t, t_next) in enumerate(zip(times[:-1], times[1:], strict=True)):
        before, key = x, jax.random.fold_in(KEY, number)
        logits_BLV = 9 * rng.normal(size=(2, 8, MASK_ID + 1))
        x = np.asarray(update(x, logits_BLV, t, t_next, key))
        np.testing.assert_array_equal(x[before != MASK_ID], before[before != MASK_ID])
    assert (x != MASK_ID).all()


def test_the_mask_token_is_never_sampled() -> None:
    process = masked_diffusion.process(mask_id=0)
    logits_BLV = np.zeros((4, 16, 3), np.float32)
    logits_BLV[..., 0] = 50.0
    run = partial(
        process_sampler.sample,
        process,
        lambda x, t: jnp.asarray(logits_BLV),
        like=jax.ShapeDtypeStruct((4, 16), jnp.int32),
        steps=3,
    )
    got = np.asarray(jax.jit(run)(KEY))
    assert set(np.unique(got)) == {1, 2}


def test_elbo_of_the_true_model_is_the_entropy() -> None:
    """Three dependent tokens and their true conditionals: in any order the
    probabilities multiply to that of the row, so the bound is -log p(row)."""
    p_VVV = np.random.default_rng(0).dirichlet(np.ones(8)).reshape(2, 2, 2)

    def logits(inputs: Any) -> np.ndarray:
        """Of each token given the unmasked others, (L, V)."""
        log_p = np.zeros((3, 3))
        for place in range(3):
            index = [slice(None) if s == 2 else int(s) for s in inputs]
            index[place] = slice(None)
            conditional = p_VVV[tuple(index)]
            free = [i for i in range(3) if isinstance(index[i], slice)]
            others = tuple(n for n, i in enumerate(free) if i != place)
            log_p[place, :2] = np.log(conditional.sum(others))
            log_p[place, 2] = -np.inf
        return log_p

    table = np.float32([logits(inputs) for inputs in np.ndindex(3, 3, 3)])
    table_VVVLV = jnp.asarray(table.reshape(3, 3, 3, 3, 3))
    ids_BL = np.tile([[0, 1, 1]], (20_000, 1))
    run = partial(
        denoising.denoising_loss,
        masked_diffusion.elbo_process(mask_id=2),
        cross_entropy.cross_entropy,
        lambda ids_BL, t_B: table_VVVLV[ids_BL[:, 0], ids_BL[:, 1], ids_BL[:, 2]],
    )
    loss = jax.jit(run)(ids_BL, KEY)
    # Rounding leaves a few rows with nothing masked.
    assert float(loss.weight) == pytest.approx(ids_BL.size, rel=1e-3)
    nats = float(loss.total) / len(ids_BL)
    assert nats == pytest.approx(-np.log(p_VVV[0, 1, 1]), rel=0.02)
