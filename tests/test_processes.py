"""Processes: what is hidden at a time, and that it is found again."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import MODELS, VOCABULARY, drawn

from transformer.generation import decoding, logit_filters, process_sampler
from transformer.models import decoder
from transformer.network import masks
from transformer.objectives import cross_entropy, denoising
from transformer.processes import autoregressive, flow_matching, masked_diffusion

KEY = jax.random.key(0)
HIDDEN = 9


def test_flow_sees_a_point_on_the_line_and_is_asked_for_its_velocity() -> None:
    x_BLP = jax.random.normal(KEY, (3, 4, 5))
    t_B = jnp.asarray([0.0, 0.25, 1.0])
    seen, target, weight = flow_matching.corrupt(x_BLP, t_B, KEY)
    rest = (1 - t_B)[:, None, None]
    np.testing.assert_allclose(seen + rest * target, x_BLP, atol=1e-5)
    np.testing.assert_allclose(seen[0] + target[0], x_BLP[0], atol=1e-6)
    np.testing.assert_allclose(seen[2], x_BLP[2], atol=1e-6)
    assert (weight == 1).all() and abs(float(seen[0].std()) - 1) < 0.5


@pytest.mark.parametrize("steps", [1, 3, 8])
def test_flow_along_its_own_velocity_reaches_the_data(steps: int) -> None:
    x_BLP = 1 + 3 * jax.random.normal(jax.random.key(1), (3, 4, 5))

    def predict(seen_BLP: jax.Array, t_B: jax.Array) -> jax.Array:
        """The velocity of the line from where one is to the one datum."""
        return (x_BLP - seen_BLP) / (1 - t_B)[:, None, None]

    got = process_sampler.sampled(
        flow_matching.process(), predict, KEY, like=x_BLP, steps=steps
    )
    np.testing.assert_allclose(got, x_BLP, atol=1e-4)


def test_the_true_velocity_carries_noise_to_a_normal_distribution() -> None:
    """Of mean m and deviation s: E[data - noise | seen] is linear in what is seen."""
    mean, deviation = 2.0, 0.5
    like = jax.ShapeDtypeStruct((20_000, 1, 1), jnp.float32)

    def predict(seen_BLP: jax.Array, t_B: jax.Array) -> jax.Array:
        t = t_B[:, None, None]
        variance = (1 - t) ** 2 + t**2 * deviation**2
        slope = (t * deviation**2 - (1 - t)) / variance
        return mean + slope * (seen_BLP - t * mean)

    got = process_sampler.sampled(
        flow_matching.process(), predict, KEY, like=like, steps=64
    )
    np.testing.assert_allclose([got.mean(), got.std()], [mean, deviation], rtol=0.02)


def test_logit_normal_times_are_in_the_middle() -> None:
    times = [
        draw(KEY, 20_000)
        for draw in (flow_matching.uniform, flow_matching.logit_normal)
    ]
    assert all(((t > 0) & (t < 1)).all() for t in times)
    middle = [float(((t > 0.25) & (t < 0.75)).mean()) for t in times]
    np.testing.assert_allclose(middle, [0.5, 0.728], atol=0.02)


def test_masking_hides_its_share_and_nothing_else() -> None:
    ids_BL = jax.random.randint(KEY, (5, 8), 0, HIDDEN)
    t_B = jnp.asarray([0.0, 1 / 3, 0.5, 2 / 3, 1.0])
    seen, target, weight = masked_diffusion.corrupt(ids_BL, t_B, KEY, symbol=HIDDEN)
    # ceil(8 cos(pi t / 2)): all, 6.93, 5.66, 4, none.
    assert (seen == HIDDEN).sum(1).tolist() == [8, 7, 6, 4, 0]
    np.testing.assert_array_equal(weight, seen == HIDDEN)
    np.testing.assert_array_equal(jnp.where(seen == HIDDEN, ids_BL, seen), ids_BL)
    np.testing.assert_array_equal(target, ids_BL)
    other = masked_diffusion.corrupt(ids_BL, t_B, jax.random.key(1), symbol=HIDDEN).seen
    assert (other != seen).any()


@pytest.mark.parametrize("caprice", [0.0, 4.5])
def test_unmasking_reveals_the_surest_and_keeps_what_it_revealed(
    caprice: float,
) -> None:
    likeliest_BL = jax.random.randint(KEY, (2, 8), 0, HIDDEN)
    sure_L = 20.0 + jnp.arange(8)
    logits_BLV = jax.nn.one_hot(likeliest_BL, HIDDEN + 1) * sure_L[None, :, None]
    process = masked_diffusion.process(symbol=HIDDEN, caprice=caprice)
    x = process.start(KEY, likeliest_BL)
    assert (x == HIDDEN).all()
    times = process.times(4)
    for number, (t, later) in enumerate(zip(times[:-1], times[1:], strict=True)):
        before = x
        key = jax.random.fold_in(KEY, number)
        x = process.update(x, logits_BLV, t, later, key)
        np.testing.assert_array_equal(x[before != HIDDEN], before[before != HIDDEN])
        count = int(masked_diffusion.hidden(later, 8))
        assert ((x == HIDDEN).sum(1) == count).all()
        if not caprice:
            assert (x[:, :count] == HIDDEN).all()
    np.testing.assert_array_equal(x, likeliest_BL)


@pytest.mark.parametrize("caprice", [0.0, 3.0, 6.0])
def test_caprice_keeps_a_place_as_often_as_its_chance_says(caprice: float) -> None:
    """Of two places, one certain and one of n equal symbols, one is kept: the certain
    one in 1 of 1 + n ** (-1 / c) draws, where c is caprice (1 - later)."""
    logits_BLV = jnp.zeros((20_000, 2, HIDDEN + 1)).at[:, 0, 3].set(50.0)
    process = masked_diffusion.process(symbol=HIDDEN, caprice=caprice)
    like = jnp.zeros((20_000, 2), jnp.int32)
    got = process.update(process.start(KEY, like), logits_BLV, 0.0, 2 / 3, KEY)
    assert ((got == HIDDEN).sum(1) == 1).all()
    expected = {0.0: 1.0, 3.0: HIDDEN / (HIDDEN + 1), 6.0: 3 / (3 + 1)}[caprice]
    assert float((got[:, 0] == 3).mean()) == pytest.approx(expected, abs=0.01)


def test_what_is_revealed_stays_whatever_the_model_says_later() -> None:
    process = masked_diffusion.process(symbol=HIDDEN)
    x, times = jnp.full((2, 8), HIDDEN), process.times(6)
    for number, (t, later) in enumerate(zip(times[:-1], times[1:], strict=True)):
        before, key = x, jax.random.fold_in(KEY, number)
        said_BLV = 9 * jax.random.normal(key, (2, 8, HIDDEN + 1))
        x = process.update(x, said_BLV, t, later, key)
        np.testing.assert_array_equal(x[before != HIDDEN], before[before != HIDDEN])
    assert (x != HIDDEN).all()


def test_the_hidden_symbol_is_never_drawn() -> None:
    process = masked_diffusion.process(symbol=0)
    logits_BLV = jnp.zeros((4, 16, 3)).at[..., 0].set(50.0)
    like = jnp.zeros((4, 16), jnp.int32)
    predict = lambda x, t: logits_BLV  # noqa: E731
    got = process_sampler.sampled(process, predict, KEY, like=like, steps=3)
    assert set(np.unique(got)) == {1, 2}


def test_writing_without_a_cache_is_cached_decoding() -> None:
    """The definition against the fast way, greedily, behind a prompt of one token."""
    module = MODELS[1].make()
    params = drawn(module)
    first_B1 = jnp.asarray([[3], [11]])
    length = 12

    def predict(ids_BL: jax.Array, t_B: jax.Array) -> jax.Array:
        read_BL = jnp.concatenate([first_B1, ids_BL[:, :-1]], axis=1)
        readout: Any = module.apply({"params": params}, read_BL, masks.row(length))
        return decoder.logits(readout)

    process = autoregressive.process(choose=logit_filters.greedy)
    like = jnp.zeros((2, length), jnp.int32)
    run = partial(process_sampler.sampled, process, predict, like=like, steps=length)
    written_BL = jax.jit(run)(KEY)
    language_ = decoding.Language(
        lambda params, *rest: module.apply({"params": params}, *rest, method="extend"),
        lambda *sizes: module.empty_cache(*sizes, jnp.float32),
    )
    fast = partial(
        decoding.generated, language_, choose=logit_filters.greedy, new_tokens=12
    )
    state = jax.jit(fast)(params, first_B1, jnp.asarray([1, 1]), KEY)
    np.testing.assert_array_equal(written_BL, state.ids_BL[:, 1:])
    assert len(np.unique(written_BL)) > 3


def test_the_objective_asks_for_what_is_hidden() -> None:
    """A model that knows the data has no loss; one that knows nothing, chance."""
    ids_BL = jax.random.randint(KEY, (4, 8), 0, VOCABULARY)

    def loss(sure: float) -> Any:
        process = masked_diffusion.process(symbol=VOCABULARY)
        logits_BLV = sure * jax.nn.one_hot(ids_BL, VOCABULARY + 1)
        return denoising.hidden(
            process, cross_entropy.cross_entropy, lambda x, t: logits_BLV, ids_BL, KEY
        )

    known, unknown = loss(50.0), loss(0.0)
    assert float(known.total) < 1e-6 < float(known.weight) < ids_BL.size
    np.testing.assert_allclose(
        unknown.total / unknown.weight, np.log(VOCABULARY + 1), rtol=1e-5
    )
    x_BLP = jnp.full((3, 2, 4), 2.0)
    right = denoising.hidden(
        flow_matching.process(),
        denoising.squared_error,
        lambda seen, t: (x_BLP - seen) / (1 - t)[:, None, None],
        x_BLP,
        KEY,
    )
    assert float(right.total) < 1e-6 and float(right.weight) == 6


def test_guidance_of_one_is_none_and_more_exaggerates() -> None:
    with_, without = (lambda x, t, c=c: x + c for c in (2.0, 1.0))
    x, t = jnp.zeros((1, 1, 1)), jnp.zeros(1)
    for scale, said in ((0.0, 1.0), (1.0, 2.0), (3.0, 4.0)):
        assert (
            float(process_sampler.guided(with_, without, scale=scale)(x, t)[0, 0, 0])
            == said
        )


def test_no_steps_are_refused() -> None:
    with pytest.raises(ValueError, match="steps: expected at least 1, got 0"):
        process_sampler.sampled(
            flow_matching.process(), lambda x, t: x, KEY, like=KEY, steps=0
        )


def test_a_generation_follows_from_its_key_alone() -> None:
    """In compiled code as out of it; another key makes another."""
    logits_BLV = jax.random.normal(KEY, (2, 16, HIDDEN + 1))
    like = jnp.zeros((2, 16), jnp.int32)
    process = masked_diffusion.process(symbol=HIDDEN)
    run = partial(
        process_sampler.sampled, process, lambda x, t: logits_BLV, like=like, steps=4
    )
    one, again, other = run(KEY), jax.jit(run)(KEY), run(jax.random.key(1))
    np.testing.assert_array_equal(one, again)
    assert (one != other).any()


def test_classes_are_guided_each_away_from_none() -> None:
    """Where the velocity is the label, one moves by none + scale (label - none).
    One straight step is exact where the velocity is the same all the way."""

    def predict(label_B: jax.Array, x_BLP: jax.Array, t_B: jax.Array) -> jax.Array:
        return jnp.broadcast_to(label_B[:, None, None].astype(jnp.float32), x_BLP.shape)

    like = jax.ShapeDtypeStruct((1, 2, 3), jnp.float32)
    label_B = jnp.asarray([1, 5])
    noise_BLP = flow_matching.start(
        jax.random.fold_in(KEY, 0), jax.ShapeDtypeStruct((2, 2, 3), jnp.float32)
    )
    for scale, steps in ((1.0, 1), (3.0, 1), (3.0, 7)):
        got = process_sampler.classes(
            flow_matching.process(),
            predict,
            label_B,
            KEY,
            like=like,
            steps=steps,
            none=2,
            scale=scale,
        )
        moved_B = 2 + scale * (label_B - 2)
        np.testing.assert_allclose(
            got - noise_BLP,
            jnp.broadcast_to(moved_B[:, None, None], got.shape),
            atol=1e-5,
        )


def test_a_share_of_the_labels_is_forgotten() -> None:
    label_B = jnp.arange(20_000) % 7
    told_B = denoising.forgotten(label_B, KEY, share=0.1, none=7)
    assert abs(float((told_B == 7).mean()) - 0.1) < 0.01
    np.testing.assert_array_equal(told_B[told_B != 7], label_B[told_B != 7])
    for share, count in ((0.0, 0), (1.0, 20_000)):
        forgotten_B = denoising.forgotten(label_B, KEY, share=share, none=7)
        assert int((forgotten_B == 7).sum()) == count


def test_the_bound_of_a_model_that_knows_is_the_entropy() -> None:
    """Three symbols that depend on each other, and a model that knows how: in any order
    the chances of a row multiply to its own, so the bound is -log p(row)."""
    chance = np.random.default_rng(0).dirichlet(np.ones(8)).reshape(2, 2, 2)

    def logits(seen: Any) -> np.ndarray:
        """Of each place given what is seen of the others."""
        said = np.zeros((3, 3))
        for place in range(3):
            rest = [slice(None) if s == 2 else int(s) for s in seen]
            rest[place] = slice(None)
            kept = chance[tuple(rest)]
            open_ = [i for i in range(3) if isinstance(rest[i], slice)]
            others = tuple(n for n, i in enumerate(open_) if i != place)
            said[place, :2] = np.log(kept.sum(others))
            said[place, 2] = -np.inf
        return said

    table_VVVLV = jnp.asarray(
        [logits(seen) for seen in np.ndindex(3, 3, 3)], jnp.float32
    ).reshape(3, 3, 3, 3, 3)
    ids_BL = jnp.tile(jnp.asarray([[0, 1, 1]]), (20_000, 1))
    loss = denoising.hidden(
        masked_diffusion.bound(symbol=2),
        cross_entropy.cross_entropy,
        lambda seen_BL, t_B: table_VVVLV[seen_BL[:, 0], seen_BL[:, 1], seen_BL[:, 2]],
        ids_BL,
        KEY,
    )
    # Now and then rounding leaves a row nothing to hide.
    assert float(loss.weight) == pytest.approx(ids_BL.size, rel=1e-3)
    nats = float(loss.total) / len(ids_BL)
    assert nats == pytest.approx(-np.log(chance[0, 1, 1]), rel=0.02)
