"""The parts of the network against their formulae, written out in numpy."""

from __future__ import annotations

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import MODELS, close, random_params

from transformer.models import encoder
from transformer.network import (
    biases,
    block,
    embeddings,
    masks,
    mlp,
    norms,
    positions,
    precision,
    stack,
)

RNG = np.random.default_rng(0)
X = RNG.normal(2.0, 3.0, size=(2, 5, 8)).astype(np.float32)
GAIN, BIAS = RNG.normal(size=(2, 8)).astype(np.float32)
PLACES = jnp.asarray([[0, 1, 2, 3, 4], [0, 1, 0, 1, 2]])


def applied(module: Any, *inputs: Any) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """A module's output, and its parameters, drawn so that none is special."""
    shapes = jax.eval_shape(module.init, jax.random.key(0), *inputs)
    rng = np.random.default_rng(1)
    params = jax.tree.map(
        lambda s: rng.normal(size=s.shape).astype(np.float32), shapes.get("params", {})
    )
    return np.asarray(jax.jit(module.apply)({"params": params}, *inputs)), params


def moved(x: np.ndarray, gain: Any, bias: Any, epsilon: float) -> np.ndarray:
    x = x.astype(np.float64)
    deviation = np.sqrt(x.var(-1, keepdims=True) + epsilon)
    return (x - x.mean(-1, keepdims=True)) / deviation * gain + bias


def scaled(x: np.ndarray, gain: Any, epsilon: float) -> np.ndarray:
    x = x.astype(np.float64)
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + epsilon) * gain


def test_norms_equal_their_formulae() -> None:
    got, p = applied(norms.LayerNorm(epsilon=0.1), X)
    close(moved(X, p["gain_D"], p["bias_D"], 0.1), got)
    got, p = applied(norms.RMSNorm(epsilon=0.1), X)
    close(scaled(X, p["gain_D"], 0.1), got)
    heads = X.reshape(2, 5, 2, 4)
    got, p = applied(norms.HeadRMSNorm(epsilon=0.1), heads)
    close(scaled(heads, p["gain_K"], 0.1), got)
    got, p = applied(norms.Identity(), X)
    close(X, got)
    assert p == {}


def test_norm_statistics_are_wide() -> None:
    """In bfloat16 a mean far from 0 would drown the deviation."""
    x = (1000.0 + 8.0 * RNG.normal(size=(2, 3, 64))).astype(np.float32)
    narrow = jnp.asarray(x, jnp.bfloat16)
    wide = np.asarray(narrow, np.float32)
    got = norms.layer_norm(narrow, jnp.ones(64), jnp.zeros(64), epsilon=1e-5)
    assert got.dtype == jnp.bfloat16
    close(moved(wide, 1.0, 0.0, 1e-5), got.astype(jnp.float32), 1e-2)
    got = norms.rms_norm(narrow, jnp.ones(64), epsilon=1e-6)
    close(scaled(wide, 1.0, 1e-6), got.astype(jnp.float32), 1e-2)


def gelu(x: np.ndarray) -> np.ndarray:
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


ACTIVATIONS = {
    "gelu": (mlp.gelu, gelu),
    "relu_squared": (mlp.relu_squared, lambda x: np.maximum(x, 0) ** 2),
    "silu": (mlp.silu, lambda x: x / (1 + np.exp(-x))),
}


@pytest.mark.parametrize(("ours", "formula"), ACTIVATIONS.values(), ids=ACTIVATIONS)
def test_mlps_equal_their_formulae(ours: Any, formula: Any) -> None:
    settings = {"width": 8, "hidden": 12, "activation": ours}
    got, p = applied(mlp.MLP(make_bias=biases.zero_init_bias, **settings), X)
    hidden = formula(X @ p["w_in_DF"] + p["b_in_F"])
    close(hidden @ p["w_out_FD"] + p["b_out_D"], got)
    got, p = applied(mlp.GatedMLP(**settings), X)
    assert set(p) == {"w_gate_DF", "w_in_DF", "w_out_FD"}
    close((formula(X @ p["w_gate_DF"]) * (X @ p["w_in_DF"])) @ p["w_out_FD"], got)


def test_positions_are_added_by_place_in_the_document() -> None:
    got, p = applied(positions.Learned(length=5), X, PLACES)
    close(X + p["position_LD"][np.asarray(PLACES)], got)
    got, _ = applied(positions.NoPositions(), X, PLACES)
    close(X, got)
    got, _ = applied(positions.Sinusoidal(theta=100.0), X, PLACES)
    angle = np.asarray(PLACES)[..., None] / 100.0 ** (np.arange(4) / 4)
    close(X + np.concatenate([np.sin(angle), np.cos(angle)], -1), got)


@pytest.mark.parametrize("interpolation", [1.0, 4.0])
def test_rotary_turns_each_pair_by_its_angle(interpolation: float) -> None:
    q = X.reshape(2, 5, 2, 4)
    got = positions.rotary(theta=50.0, interpolation=interpolation)(jnp.asarray(q), PLACES)
    angle = np.asarray(PLACES)[..., None] / 50.0 ** (np.arange(2) / 2) / interpolation
    turn = np.exp(1j * angle)[:, :, None]
    pairs = (q[..., :2] + 1j * q[..., 2:]) * turn
    close(np.concatenate([pairs.real, pairs.imag], -1), got)


@pytest.mark.parametrize("interpolation", [1.0, 3.0])
def test_rotary_scores_depend_on_distance_only(interpolation: float) -> None:
    rng = np.random.default_rng(0)
    q, k = (jnp.asarray(rng.normal(size=(1, 1, 1, 8)), jnp.float32) for _ in "qk")
    turn = positions.rotary(interpolation=interpolation)
    places = jnp.arange(40)[None]
    q_BLHK, k_BLHK = (turn(jnp.repeat(a, 40, axis=1), places) for a in (q, k))
    scores = np.asarray(jnp.einsum("BLHK,BMHK->LM", q_BLHK, k_BLHK))
    for distance in range(-39, 40):
        line = np.diagonal(scores, distance)
        np.testing.assert_allclose(line, line[0], atol=1e-4)
    assert np.std(scores[0]) > 0.1


def test_stretched_rotary_is_interpolated() -> None:
    q = jnp.asarray(RNG.normal(size=(1, 4, 1, 8)), jnp.float32)
    far = positions.rotary(interpolation=2.0)(q, 2 * jnp.arange(4)[None])
    close(positions.rotary()(q, jnp.arange(4)[None]), far)


def test_stretched_theta_stretches_the_slowest_and_leaves_the_fastest() -> None:
    theta = positions.stretched_theta(1e4, interpolation=8.0, head_features=16)
    before, after = (t ** (-np.arange(8) / 8) for t in (1e4, theta))
    np.testing.assert_allclose(before[0], after[0])
    np.testing.assert_allclose(before[-1] / after[-1], 8.0)
    assert (np.diff(before / after) > 0).all()


@pytest.mark.parametrize(
    ("module", "width", "words"),
    [
        (positions.Learned(length=4), 8, "expected rows of at most 4 tokens, got 5"),
        (positions.Sinusoidal(), 7, "width: expected an even number, got 7"),
    ],
)
def test_impossible_positions_are_named(module: Any, width: int, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        module.init(jax.random.key(0), X[:, :, :width], PLACES)


def test_odd_heads_cannot_be_turned() -> None:
    with pytest.raises(ValueError, match="expected an even number, got 3"):
        positions.rotary()(jnp.ones((2, 5, 2, 3)), PLACES)


@pytest.mark.parametrize(
    ("heads", "slopes"),
    [
        (2, [1 / 16, 1 / 256]),
        (4, [1 / 4, 1 / 16, 1 / 64, 1 / 256]),
        (3, [1 / 16, 1 / 256, 1 / 4]),
        (6, [1 / 4, 1 / 16, 1 / 64, 1 / 256, 1 / 2, 1 / 8]),
    ],
)
def test_alibi_falls_with_distance(heads: int, slopes: list[float]) -> None:
    tokens = masks.TokenPositions(PLACES, PLACES, jnp.ones_like(PLACES))
    got = positions.alibi(heads)(tokens, tokens)
    place = np.asarray(PLACES)
    distance = np.abs(place[:, None, :, None] - place[:, None, None, :])
    assert got.dtype == jnp.float32
    close(-np.asarray(slopes)[None, :, None, None] * distance, got)


def test_blocks_join_the_stream_before_or_after_the_norm() -> None:
    """With y(x) = 2x as attention and x + 1 as MLP, both orders by hand."""

    class Twice(norms.Identity):
        def __call__(self, x_BLD: Any, tokens: Any) -> Any:
            return 2 * x_BLD

    class More(norms.Identity):
        def __call__(self, x_BLD: Any) -> Any:
            return x_BLD + 1

    def run(residual: block.ResidualOrder) -> tuple[np.ndarray, Any]:
        module = block.Block(Twice, More, norms.RMSNorm, residual)
        return applied(module, X, masks.single_document(5))

    got, p = run(block.pre_norm)
    a, b = (
        partial(scaled, gain=p[f"{name}_norm"]["gain_D"], epsilon=1e-6)
        for name in ("attention", "mlp")
    )
    x = X + 2 * a(X)
    close(x + b(x) + 1, got)
    got, p = run(block.post_norm)
    x = a(X + 2 * X)
    close(b(x + x + 1), got)


def test_layers_may_differ_when_unrolled() -> None:
    def make(block: Any, layer: int) -> Any:
        make_mlp = partial(mlp.MLP, width=8, hidden_features=4 * (layer + 1))
        return block(partial(Still), make_mlp)

    class Still(norms.Identity):
        def __call__(self, x_BLD: Any, tokens: Any) -> Any:
            return x_BLD

    _, p = applied(
        stack.Unrolled(depth=3, make_block=make), X, masks.single_document(5)
    )
    shapes = [p[f"layers_{i}"]["mlp"]["w_in_DF"].shape for i in range(3)]
    assert shapes == [(8, 4), (8, 8), (8, 12)]


def test_the_policy_narrows_weights_and_keeps_norms_wide() -> None:
    narrow = precision.cast_weights(random_params(MODELS[0].make()), jnp.bfloat16)
    for path, leaf in jax.tree_util.tree_flatten_with_path(narrow)[0]:
        wide = path[-1].key.startswith(("gain_", "bias_"))
        assert leaf.dtype == (jnp.float32 if wide else jnp.bfloat16), path
    x, w = jnp.ones((1, 2, 3), jnp.bfloat16), jnp.ones((3, 4), jnp.bfloat16)
    assert precision.einsum_f32("BLD,DF->BLF", x, w).dtype == jnp.float32
    assert precision.linear("BLD,DF->BLF", x, w).dtype == jnp.bfloat16


def test_adaptive_norm_follows_its_condition_and_starts_plain() -> None:
    condition_BLJ = RNG.normal(size=(2, 1, 3)).astype(np.float32)
    got, p = applied(norms.AdaptiveNorm(8, 3, epsilon=0.1), X, condition_BLJ)
    gain, bias = (condition_BLJ @ p[n]["w_JD"] + p[n]["b_D"] for n in ("gain", "bias"))
    close(moved(X, 1 + gain, bias, 0.1), got)

    def both(module: Any, x_BLD: Any) -> Any:
        return module(x_BLD, condition_BLJ), module.gate(condition_BLJ)

    module = norms.AdaLNZero(width=8, condition_features=3, epsilon=0.1)
    (normal, gate), _ = nn.init_with_output(both, module)(jax.random.key(0), X)
    close(moved(X, 1.0, 0.0, 0.1), normal)
    assert gate.shape == (2, 1, 8) and not gate.any()


def test_axial_positions_turn_each_dimension_by_its_own_place() -> None:
    """Scores depend on the offset along each dimension alone, and around a dimension
    that closes on itself there is no far end."""
    shape = (3, 4)
    rotate = positions.axial(shape, periodic=[1])
    q, k = (np.asarray(RNG.normal(size=(1, 1, 1, 10)), np.float32) for _ in "qk")
    places = jnp.arange(12)[None]
    q_BLHK, k_BLHK = (rotate(jnp.tile(a, (1, 12, 1, 1)), places) for a in (q, k))
    score = np.asarray(jnp.einsum("BLHK,BMHK->BHLM", q_BLHK, k_BLHK))[0, 0]
    score = score.reshape(*shape, *shape)
    for row, column, to_row, to_column in np.ndindex(*shape, *shape):
        around = (to_column - column) % 4
        down = to_row - row
        expected = (
            score[0, 0, down, around] if down >= 0 else score[-down, 0, 0, around]
        )
        np.testing.assert_allclose(
            score[row, column, to_row, to_column], expected, atol=1e-4
        )
    assert len(np.unique(score[0, 0].round(3))) == 12


def test_a_class_token_stands_before_the_rest() -> None:
    embed = partial(embeddings.PatchEmbedding, features=8, width=6)
    module = embeddings.ClassToken(width=6, make_embed=embed)
    got, p = applied(module, X, masks.single_document(6))
    inner = p["Patches_0"]
    np.testing.assert_array_equal(got[:, 0], [p["class_D"]] * 2)
    close(X @ inner["w_in_PD"] + inner["b_in_D"], got[:, 1:])


def test_mean_pooling_leaves_padding_out() -> None:
    segment_BL = jnp.asarray([[1, 1, 1, 0, 0], [1, 1, 2, 2, 2]])
    tokens = masks.packed(segment_BL, PLACES)
    got = encoder.mean_pooling(jnp.asarray(X), tokens)
    close(np.stack([X[0, :3].mean(0), X[1].mean(0)]), got)
