"""The data of the decision transformer, and rollouts that follow from the target."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from experiments import decision_transformer
from experiments.reports import decision_transformer as study
from transformer.environments import apple_grid, environment
from transformer.models import decision_transformer as model
from transformer.training import update

KEY = jax.random.key(0)


def test_return_to_go_is_the_sum_of_the_rewards_to_come() -> None:
    data = decision_transformer.dataset("apples", 1000, 0)
    quality_key, play_key = (jax.random.fold_in(KEY, i) for i in (0, 1))
    quality = jax.random.uniform(quality_key, (1000,), minval=-0.2, maxval=0.3)
    play = partial(environment.play_episodes, apple_grid.ENVIRONMENT, apple_grid.policy)
    episodes = jax.device_get(jax.jit(play)(play_key, quality))
    rewards = episodes.rewards[decision_transformer.HELD_OUT :]
    for step in (0, 7, 23):
        expected = rewards[:, step:].sum(1)
        got = data.train["return_to_go_BT"][:, step]
        np.testing.assert_allclose(got, expected, atol=1e-5)
    assert len(data.validation["action_BT"]) == decision_transformer.HELD_OUT


def test_episodes_follow_from_the_seed() -> None:
    one, again, other = (
        decision_transformer.dataset("apples", 1000, seed).train["action_BT"]
        for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(one, again)
    assert (one != other).any()
    with pytest.raises(ValueError, match="episodes: expected at least 1000, got 999"):
        decision_transformer.dataset("apples", 999, 0)


@pytest.mark.slow
def test_training_lowers_both_losses_and_rollouts_follow_from_the_key(
    capsys: Any,
) -> None:
    experiment = decision_transformer.experiment(
        episodes=1000, depth=1, width=32, batch_size=32, steps=40, dtype="float32"
    )
    state = jax.jit(lambda: update.init_state(experiment))()
    advance = jax.jit(lambda *arrays: update.update(experiment, *arrays))
    metrics = []
    for step in range(experiment.steps):
        state, outcome = advance(state, experiment.batch(step, range(32)))
        metrics.append(experiment.metrics(outcome.loss))
    # Both models begin with uniform predictions.
    assert metrics[0]["loss"] == pytest.approx(2 * np.log(4), rel=1e-5)
    for name in ("nats/conditioned", "nats/cloning"):
        assert metrics[0][name] == pytest.approx(np.log(4), rel=1e-5)
        assert np.mean([m[name] for m in metrics[-4:]]) < metrics[0][name] - 0.02
    policy = partial(model.logits, experiment.net, "float32", 10.0)
    rollout = partial(study.rollout, policy)
    one, again, other = (
        rollout("conditioned", state.params, jax.random.key(seed), [8, 0])
        for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(one.actions, again.actions)
    assert (one.actions != other.actions).any()
    # Behavior cloning does not depend on the target.
    clones = [rollout("cloning", state.params, KEY, [t, t]) for t in (-8, 8)]
    np.testing.assert_array_equal(clones[0].actions, clones[1].actions)
    assert experiment.generate is not None
    text = experiment.generate(state.params, KEY, target_return=5)
    assert text == capsys.readouterr().out.rstrip("\n")
    assert len(text.splitlines()) == 7 + 24 + 1 and "target +5, return" in text


def write_episodes(folder: Path, count: int = 12) -> Path:
    """The action is the sign of the observation, unless the return is low."""
    folder.mkdir()
    for number in range(count):
        rng = np.random.default_rng(number)
        steps = 3 + number % 5
        observations = rng.normal(size=(steps, 2)).astype(np.float32)
        good = number % 2
        actions = ((observations[:, 0] > 0) == good).astype(np.int64)
        np.savez(
            folder / f"{number}.npz",
            observations=observations,
            actions=actions,
            rewards=np.full(steps, good),
        )
    return folder


def test_a_number_of_episodes_is_that_of_apples(tmp_path: Path) -> None:
    """All of one's own are used: another number would be ignored in silence."""
    folder = write_episodes(tmp_path / "episodes")
    with pytest.raises(ValueError, match="--episodes: of apples alone; .* got 7$"):
        decision_transformer.experiment(source=str(folder), episodes=7)


def test_episodes_of_ones_own_are_trained_on_without_their_padding(
    tmp_path: Path,
) -> None:
    folder = write_episodes(tmp_path / "episodes")
    experiment = decision_transformer.experiment(
        source=str(folder), batch_size=4, depth=1, width=32, steps=2, dtype="float32"
    )
    params = jax.jit(experiment.init)(KEY)
    batch = experiment.batch(0, range(4))
    loss = jax.jit(experiment.loss)
    total = loss(params, batch, KEY)
    steps = int(batch["length_B"].sum())
    assert float(total.weight) == pytest.approx(steps)
    padded = {
        **batch,
        "action_BT": np.where(
            np.arange(batch["action_BT"].shape[1]) < batch["length_B"][:, None],
            batch["action_BT"],
            1,
        ),
    }
    again = loss(params, padded, KEY)
    np.testing.assert_allclose(float(total.total), float(again.total), rtol=1e-6)
    results = experiment.report(params, KEY)["results.json"]
    assert set(results) == {
        "accuracy/most_frequent",
        "accuracy/conditioned",
        "accuracy/cloning",
    }
    assert experiment.generate is None


def test_actions_that_are_no_whole_numbers_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "episodes"
    folder.mkdir()
    for number in range(3):
        observations, actions = np.zeros((4, 2)), np.zeros((4, 3))
        np.savez(
            folder / f"{number}.npz",
            observations=observations,
            actions=actions,
            rewards=np.zeros(4),
        )
    with pytest.raises(ValueError, match=r"expected actions \[T\] of whole numbers"):
        decision_transformer.experiment(source=str(folder))
