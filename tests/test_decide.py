"""Decisions: the orchard, who sees what, and walks that follow from what is asked."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import random_params

from experiments import decision_transformer
from transformer.environments import apple_grid, environment
from transformer.generation import policy_rollout
from transformer.models import decision_transformer as decision_model
from transformer.training import update

KEY = jax.random.key(0)
WORLD = apple_grid.ENVIRONMENT


@pytest.fixture(scope="module")
def seen() -> Any:
    """Forty episodes of walkers from bad to good, numpy."""
    play = jax.jit(partial(environment.play_episodes, WORLD, apple_grid.policy))
    return jax.device_get(play(KEY, jnp.linspace(-1, 1, 40)))


def test_what_is_gathered_is_gone_and_nothing_else_changes() -> None:
    state = apple_grid.reset(KEY)
    assert sorted(np.unique(state.grid, return_counts=True)[1]) == [10, 10, 29]
    assert state.grid[tuple(state.position)] == 0
    for number in range(60):
        action = jax.random.randint(jax.random.fold_in(KEY, number), (), 0, 4)
        after, reward = apple_grid.step(state, action)
        place = (
            np.asarray(state.position) + apple_grid.MOVES[int(action)]
        ) % apple_grid.SIDE
        assert after.position.tolist() == place.tolist()
        wanted = np.asarray(state.grid).copy()
        assert float(reward) == wanted[tuple(place)]
        wanted[tuple(place)] = 0
        np.testing.assert_array_equal(after.grid, wanted)
        state = after


def test_the_walker_sees_the_orchard_from_where_it_stands() -> None:
    """A torus shifted with its walker looks the same."""
    state = apple_grid.reset(KEY)
    moved = apple_grid.State(
        jnp.roll(state.grid, (2, 3), axis=(0, 1)),
        (state.position + jnp.array([2, 3])) % 7,
    )
    np.testing.assert_array_equal(apple_grid.observe(state), apple_grid.observe(moved))
    apples = np.asarray(apple_grid.observe(state)).reshape(2, 7, 7)[0]
    above, gained = apple_grid.step(state, jnp.int32(0))
    assert apples[2, 3] == max(float(gained), 0)


def test_better_walkers_gain_more(seen: Any) -> None:
    gained = seen.rewards.sum(1)
    assert gained[:10].mean() < -5 and gained[-10:].mean() > 5
    assert seen.observations.shape == (40, 24, 98) and seen.actions.max() == 3


def test_what_is_left_is_what_is_still_to_come() -> None:
    data = decision_transformer.episodes(1000, 0)
    for number in (0, 7, 23):
        left = data.train["rewards"][:, number:].sum(1)
        np.testing.assert_allclose(data.train["left"][:, number], left, atol=1e-5)
    assert len(data.validation["left"]) == decision_transformer.HELD_OUT
    again, other = (
        decision_transformer.episodes(1000, 0),
        decision_transformer.episodes(1000, 1),
    )
    np.testing.assert_array_equal(data.train["actions"], again.train["actions"])
    assert (data.train["actions"] != other.train["actions"]).any()


NET = decision_model.decision_transformer(
    actions=4, observation_features=98, depth=1, width=32
)


@jax.jit
def said(
    params: Any, return_to_go_BT: Any, observation_BTP: Any, action_BT: Any
) -> Any:
    return NET.apply({"params": params}, return_to_go_BT, observation_BTP, action_BT)


def test_an_action_follows_from_what_came_before_it(seen: Any) -> None:
    """From its own return and sight, but not from itself nor what comes later."""
    params = random_params(NET, init_params=decision_model.init_params)
    asked = jnp.asarray(seen.rewards[:, ::-1].cumsum(1)[:, ::-1][:2])
    base = said(params, asked, seen.observations[:2], seen.actions[:2])

    def first_moved(asked: Any, sight: Any, done: Any) -> int:
        apart = np.abs(np.asarray(said(params, asked, sight, done) - base)).max((0, 2))
        return int(np.argmax(apart > 1e-5))

    sight, done = jnp.asarray(seen.observations[:2]), jnp.asarray(seen.actions[:2])
    assert first_moved(asked.at[:, 9].add(3.0), sight, done) == 9
    assert first_moved(asked, sight.at[:, 9].add(1.0), done) == 9
    assert first_moved(asked, sight, done.at[:, 9].set((done[:, 9] + 1) % 4)) == 10


def test_a_walk_is_of_its_world_and_of_what_it_asked_for() -> None:
    """A policy that looks at what is asked: seek apples above 0, thorns below. What is
    asked for falls by what is gained, and the model sees just what it saw and did."""
    known = []

    def choose(return_to_go_BT: Any, observation_BTP: Any, action_BT: Any) -> Any:
        jax.debug.callback(
            lambda *now: known.append(now), return_to_go_BT, observation_BTP, action_BT
        )
        field = (observation_BTP[..., :49] - observation_BTP[..., 49:]).reshape(
            *return_to_go_BT.shape, 7, 7
        )
        ahead = (field[:, :, None] * apple_grid.MOVE_DISCOUNTS[None, None]).sum(
            (-2, -1)
        )
        return 50 * jnp.sign(return_to_go_BT)[..., None] * ahead

    walk = policy_rollout.policy_rollout(
        WORLD, choose, KEY, jnp.asarray([1e3, -1e3]), same=True
    )
    jax.effects_barrier()
    gained = np.asarray(walk.rewards).sum(1)
    assert gained[0] > 5 and gained[1] < -5
    np.testing.assert_array_equal(walk.states.grid[0, 0], walk.states.grid[1, 0])
    asked, sight, done = known[-1]
    left = 1e3 - np.concatenate([[0], np.cumsum(walk.rewards[0])[:-1]])
    np.testing.assert_allclose(asked[0], left)
    np.testing.assert_array_equal(done[0, :-1], walk.actions[0, :-1])
    own = jax.vmap(apple_grid.observe)(jax.tree.map(lambda a: a[0], walk.states))
    np.testing.assert_array_equal(sight[0], own)


def test_training_lowers_both_losses_and_walks_follow_from_the_key() -> None:
    experiment = decision_transformer.experiment(
        count=1000, depth=1, width=32, batch_size=32, steps=40, dtype="float32"
    )
    state = jax.jit(lambda: update.init_state(experiment))()
    advance = jax.jit(lambda *given: update.update(experiment, *given))
    told = []
    for step in range(experiment.steps):
        state, step_told = advance(state, experiment.batch(step, range(32)))
        told.append(experiment.metrics(step_told.loss))
    for name in ("nats_asked", "nats_cloned"):
        assert np.mean([t[name] for t in told[-4:]]) < told[0][name] - 0.02
    walkers = experiment.report.args[0]
    one, again, other = (
        walkers.walked("asked", state.params, jax.random.key(seed), [8, 0])
        for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(one.actions, again.actions)
    assert (one.actions != other.actions).any()
    cloned = [
        walkers.walked("cloned", state.params, KEY, [asked, asked]) for asked in (-8, 8)
    ]
    np.testing.assert_array_equal(cloned[0].actions, cloned[1].actions)
