"""Scores of ensembles against their definitions."""

import jax
import numpy as np

from transformer.objectives import crps

RNG = np.random.default_rng(0)

score_and_sums = jax.jit(crps.crps)


def ensemble(members: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(members, target, weight), some weights 0."""
    shape = 3, 4, 5
    weight = RNG.uniform(0, 2, shape) * (RNG.random(shape) < 0.8)
    return RNG.normal(size=(members, *shape)), RNG.normal(size=shape), weight


def test_crps_equals_its_definition() -> None:
    """Over pairs of different members, one by one."""
    members, target, weight = ensemble(4)
    score = np.abs(members - target).mean(0)
    for i in range(4):
        for j in range(4):
            if i != j:
                score -= np.abs(members[i] - members[j]) / (2 * 4 * 3)
    loss = score_and_sums(members, target, weight)
    np.testing.assert_allclose(loss.total, (score * weight).sum(), rtol=1e-5)
    np.testing.assert_allclose(loss.weight, weight.sum(), rtol=1e-6)
    mean_error = (np.square(members.mean(0) - target) * weight).sum()
    np.testing.assert_allclose(loss.sums["squared_error"], mean_error, rtol=1e-5)
    variance = (members.var(0, ddof=1) * weight).sum()
    np.testing.assert_allclose(loss.sums["variance"], variance, rtol=1e-5)


def test_what_has_no_weight_may_be_missing() -> None:
    """NaN there changes neither score nor gradient."""
    members, target, weight = ensemble(3)
    unseen = weight == 0
    assert unseen.any()
    total_and_slope = jax.jit(jax.value_and_grad(lambda *a: crps.crps(*a).total))

    def value_and_grad(members: np.ndarray, target: np.ndarray) -> list[np.ndarray]:
        loss, slope = total_and_slope(members, target, weight)
        sums = score_and_sums(members, target, weight).sums
        return [np.asarray(leaf) for leaf in jax.tree.leaves((loss, slope, sums))]

    expected = value_and_grad(members, target)
    holes = np.where(unseen, np.nan, target)
    both = np.where(unseen, np.nan, members), holes
    for got in (value_and_grad(members, holes), value_and_grad(*both)):
        for one, other in zip(got, expected, strict=True):
            assert np.isfinite(one).all()
            np.testing.assert_array_equal(one, other)


def test_crps_of_one_member_is_its_absolute_error() -> None:
    members, target, weight = ensemble(1)
    loss = score_and_sums(members, target, weight)
    expected = (np.abs(members[0] - target) * weight).sum()
    np.testing.assert_allclose(loss.total, expected, rtol=1e-5)
    assert loss.sums["variance"] == 0


def test_crps_is_least_at_the_spread_of_the_target() -> None:
    """Against wider and narrower members, in an ensemble of three."""
    rng = np.random.default_rng(0)
    target_BLP = rng.normal(size=(1, 1, 60_000))
    members_IBLP = rng.normal(size=(3, 1, 1, 60_000))
    one_BLP = np.ones_like(target_BLP)

    def score(spread: float) -> float:
        return float(score_and_sums(spread * members_IBLP, target_BLP, one_BLP).total)

    best = score(1.0)
    assert best < score(0.7) and best < score(1.4)
    # For a normal distribution E|x - y| - E|x - x'| / 2 is 1 / sqrt(pi).
    np.testing.assert_allclose(best / 60_000, 1 / np.sqrt(np.pi), rtol=0.02)


def test_ensemble_metrics_are_in_units_of_the_fields() -> None:
    members, target, weight = ensemble(4)
    loss = score_and_sums(members, target, weight)
    metrics = crps.ensemble_metrics(loss, scale=3.0)
    mean = np.average(np.square(members.mean(0) - target), weights=weight)
    np.testing.assert_allclose(metrics["rmse"], 3 * np.sqrt(mean), rtol=1e-5)
    spread = np.average(members.var(0, ddof=1), weights=weight)
    np.testing.assert_allclose(metrics["spread"], 3 * np.sqrt(spread), rtol=1e-5)
    np.testing.assert_allclose(metrics["crps"], 3 * metrics["loss"], rtol=1e-5)


def test_gaussian_crps_is_that_of_many_members() -> None:
    members = 0.7 + 1.3 * RNG.normal(size=(4000, 1, 1, 1))
    one = np.ones((1, 1, 1), np.float32)
    gaussian_crps = jax.jit(crps.gaussian_crps)
    for target in (-2.0, 0.5, 3.0):
        expected = np.abs(members - target).mean() - 1.3 / np.sqrt(np.pi)
        got = gaussian_crps((0.7 - target) * one, 1.3 * one)
        np.testing.assert_allclose(np.asarray(got)[0, 0, 0], expected, atol=0.06)


def test_mean_distance_is_of_pairs_of_different_members() -> None:
    members = np.array([0.0, 1.0, 5.0])[:, None, None, None]
    got = jax.jit(crps.mean_distance)(members)
    np.testing.assert_allclose(got, (1 + 5 + 4) / 3, rtol=1e-6)
