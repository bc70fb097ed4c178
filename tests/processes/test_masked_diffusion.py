"""Masked diffusion: which positions are masked at a time, and how they are unmasked."""

from __future__ import annotations

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


def test_corruption_masks_the_ratio_of_its_time_and_nothing_else() -> None:
    ids_BL = jax.random.randint(KEY, (5, 8), 0, MASK_ID)
    t_B = jnp.asarray([0.0, 1 / 3, 0.5, 2 / 3, 1.0])
    inputs, target, weight = masked_diffusion.corrupt(ids_BL, t_B, KEY, mask_id=MASK_ID)
    masked = inputs == MASK_ID
    # ceil(8 cos(pi t / 2)): all, 6.93, 5.66, 4, none.
    assert masked.sum(1).tolist() == [8, 7, 6, 4, 0]
    np.testing.assert_array_equal(weight, masked)
    np.testing.assert_array_equal(jnp.where(masked, ids_BL, inputs), ids_BL)
    np.testing.assert_array_equal(target, ids_BL)
    other = masked_diffusion.corrupt(ids_BL, t_B, jax.random.key(1), mask_id=MASK_ID)
    assert (other.inputs != inputs).any()


def test_padding_is_never_masked_and_a_short_row_has_its_own_ratio() -> None:
    """Rows of 8, 5, 1 and 0 tokens at a ratio of 0.15, rounded up."""
    ids_BL = jax.random.randint(KEY, (4, 8), 0, MASK_ID)
    real_BL = jnp.arange(8)[None] < jnp.asarray([8, 5, 1, 0])[:, None]
    process = masked_diffusion.fixed_ratio_process(
        0.15, mask_id=MASK_ID, real_BL=real_BL
    )
    for seed in range(20):
        key = jax.random.key(seed)
        t_B = process.sample_time(key, 4)
        inputs, _, weight = process.corrupt(ids_BL, t_B, key)
        assert (weight * real_BL).sum(1).tolist() == [2, 1, 1, 0]
        assert not (weight * ~real_BL).any()
        np.testing.assert_array_equal(weight, inputs == MASK_ID)
        # A full row is masked as without padding.
        whole = masked_diffusion.corrupt(ids_BL, t_B, key, mask_id=MASK_ID)
        np.testing.assert_array_equal(whole.inputs[0], inputs[0])


def test_no_more_tokens_are_masked_than_the_bound() -> None:
    """At any ratio and length; the bound is at most two too many."""
    for ratio in (0.01, 0.15, 0.25, 1 / 3, 0.7, 1.0):
        time_B = masked_diffusion.constant_mask_ratio(ratio)(jax.random.key(0), 1)
        length_B = np.arange(1, 3000)
        masked_B = np.asarray(masked_diffusion.num_masked(time_B, length_B))
        bound_B = [masked_diffusion.max_masked(ratio, int(n)) for n in length_B]
        assert (masked_B <= bound_B).all() and (
            masked_B >= np.subtract(bound_B, 2)
        ).all()


def test_elbo_weights_of_a_row_sum_to_its_length() -> None:
    ids_BL = jax.random.randint(KEY, (5, 8), 0, MASK_ID)
    t_B = jnp.asarray([0.0, 1 / 3, 0.5, 2 / 3, 0.99])
    example = masked_diffusion.corrupt_elbo_weighted(ids_BL, t_B, KEY, mask_id=MASK_ID)
    np.testing.assert_allclose(example.weight_BL.sum(1), 8, rtol=1e-6)
    np.testing.assert_array_equal(example.weight_BL > 0, example.inputs == MASK_ID)


@pytest.mark.parametrize("ratio", [0.0, -0.1, 1.5])
def test_mask_ratios_outside_0_to_1_are_refused(ratio: float) -> None:
    with pytest.raises(ValueError, match=f"mask ratio: expected .* got {ratio}"):
        masked_diffusion.constant_mask_ratio(ratio)


@pytest.mark.parametrize("choice_temperature", [0.0, 4.5])
def test_unmasking_keeps_the_most_confident_and_all_unmasked_before(
    choice_temperature: float,
) -> None:
    best_BL = jax.random.randint(KEY, (2, 8), 0, MASK_ID)
    confidence_L = 20.0 + jnp.arange(8)
    logits_BLV = jax.nn.one_hot(best_BL, MASK_ID + 1) * confidence_L[None, :, None]
    process = masked_diffusion.process(
        mask_id=MASK_ID, choice_temperature=choice_temperature
    )
    x = process.prior(KEY, best_BL)
    assert (x == MASK_ID).all()
    times = process.times(4)
    for number, (t, t_next) in enumerate(zip(times[:-1], times[1:], strict=True)):
        before = x
        key = jax.random.fold_in(KEY, number)
        x = process.update(x, logits_BLV, t, t_next, key)
        np.testing.assert_array_equal(x[before != MASK_ID], before[before != MASK_ID])
        count = int(masked_diffusion.num_masked(t_next, 8))
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
    logits_BLV = jnp.zeros((20_000, 2, MASK_ID + 1)).at[:, 0, 3].set(50.0)
    process = masked_diffusion.process(
        mask_id=MASK_ID, choice_temperature=choice_temperature
    )
    like = jnp.zeros((20_000, 2), jnp.int32)
    got = process.update(process.prior(KEY, like), logits_BLV, 0.0, 2 / 3, KEY)
    assert ((got == MASK_ID).sum(1) == 1).all()
    expected = {0.0: 1.0, 3.0: MASK_ID / (MASK_ID + 1), 6.0: 3 / (3 + 1)}
    assert float((got[:, 0] == 3).mean()) == pytest.approx(
        expected[choice_temperature], abs=0.01
    )


def test_unmasked_tokens_stay_whatever_is_predicted_later() -> None:
    process = masked_diffusion.process(mask_id=MASK_ID)
    x, times = jnp.full((2, 8), MASK_ID), process.times(6)
    for number, (t, t_next) in enumerate(zip(times[:-1], times[1:], strict=True)):
        before, key = x, jax.random.fold_in(KEY, number)
        logits_BLV = 9 * jax.random.normal(key, (2, 8, MASK_ID + 1))
        x = process.update(x, logits_BLV, t, t_next, key)
        np.testing.assert_array_equal(x[before != MASK_ID], before[before != MASK_ID])
    assert (x != MASK_ID).all()


def test_the_mask_token_is_never_sampled() -> None:
    process = masked_diffusion.process(mask_id=0)
    logits_BLV = jnp.zeros((4, 16, 3)).at[..., 0].set(50.0)
    like = jnp.zeros((4, 16), jnp.int32)
    predict = lambda x, t: logits_BLV  # noqa: E731
    got = process_sampler.sample(process, predict, KEY, like=like, steps=3)
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

    table_VVVLV = jnp.asarray(
        [logits(inputs) for inputs in np.ndindex(3, 3, 3)], jnp.float32
    ).reshape(3, 3, 3, 3, 3)
    ids_BL = jnp.tile(jnp.asarray([[0, 1, 1]]), (20_000, 1))
    loss = denoising.denoising_loss(
        masked_diffusion.elbo_process(mask_id=2),
        cross_entropy.cross_entropy,
        lambda ids_BL, t_B: table_VVVLV[ids_BL[:, 0], ids_BL[:, 1], ids_BL[:, 2]],
        ids_BL,
        KEY,
    )
    # Rounding leaves a few rows with nothing masked.
    assert float(loss.weight) == pytest.approx(ids_BL.size, rel=1e-3)
    nats = float(loss.total) / len(ids_BL)
    assert nats == pytest.approx(-np.log(p_VVV[0, 1, 1]), rel=0.02)
