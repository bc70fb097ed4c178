"""Where a model looks, whether that is true, and what simple readers make of it."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import random_params
from kinds import sentences, vit, init_vit, seq2seq

from transformer.evaluation import image_classifier
from transformer.evaluation.baselines import linear_probe
from transformer.interpretability import attention_rollout, deletion, input_gradients
from transformer.models import vit as vits
from transformer.network import masks, stack

ROWS, HEADS, LENGTH = 3, 2, 5


def attention_matrices(layers, seed=0):
    rng = np.random.default_rng(seed)
    raised = np.exp(rng.normal(size=(layers, ROWS, HEADS, LENGTH, LENGTH)))
    return [jnp.asarray(a / a.sum(-1, keepdims=True), jnp.float32) for a in raised]


@pytest.mark.parametrize("part", [0.5, 0.2])
def test_rollout_is_the_product_of_the_layers_matrices(part):
    first, second, third = attention_matrices(3)
    own = np.eye(LENGTH)
    for row in range(ROWS):
        means = [np.mean(a[row], 0) for a in (first, second, third)]
        steps = [part * own + (1 - part) * mean for mean in means]
        want = steps[2] @ steps[1] @ steps[0]
        got = attention_rollout.rollout([first, second, third], residual=part)[row]
        np.testing.assert_allclose(got, want, rtol=1e-5)


def test_rollout_shares_sum_to_one():
    layers = attention_matrices(4)
    nothing_seen = layers[1].at[:, :, 2].set(0.0)
    shares = attention_rollout.rollout(
        [layers[0], nothing_seen, *layers[2:]], residual=0.3
    )
    np.testing.assert_allclose(shares.sum(-1), 1, rtol=1e-5)
    assert (shares >= 0).all()


def test_without_attention_each_token_is_itself_alone():
    shares = attention_rollout.rollout(attention_matrices(3), residual=1.0)
    np.testing.assert_array_equal(shares, np.broadcast_to(np.eye(5), (ROWS, 5, 5)))


def test_matrices_are_found_in_the_order_of_the_layers():
    sown = attention_matrices(11)
    stack_ = {
        f"layers_{n}": {"attention": {"weights_BHLM": (a,)}} for n, a in enumerate(sown)
    }
    told = {"encoder": {"stack": {**stack_, "stream_BLD": (jnp.zeros((3, 5, 8)),)}}}
    found = attention_rollout.self_attention_weights(told)
    assert len(found) == 11
    for one, same in zip(found, sown, strict=True):
        np.testing.assert_array_equal(one, same)


def test_scanned_layers_tell_the_same_as_unrolled_ones():
    raw = jax.random.normal(jax.random.key(1), (2, 8, 6))
    module = vit()
    params = random_params(module, init_params=init_vit)
    body = stack.stack_layer_params(params["encoder"]["stack"])
    scanned = {**params, "encoder": {**params["encoder"], "stack": body}}
    told = []
    for made, weights in ((module, params), (vit(stack=stack.Scanned), scanned)):
        apply = jax.jit(partial(made.apply, mutable="intermediates"))
        _, kept = apply({"params": weights}, raw, masks.single_document(9))
        told.append(attention_rollout.self_attention_weights(kept["intermediates"]))
    assert [len(layers) for layers in told] == [2, 2]
    np.testing.assert_allclose(told[0], told[1], atol=1e-5)
    first, second = told[0]
    assert np.abs(first - second).max() > 1e-3


def test_cross_attention_is_left_out_and_two_stacks_are_refused():
    batch = sentences(0)
    read, written = masks.single_document(12), masks.single_document(9)
    inputs = batch["source_BL"], read, batch["ids_BL"], written

    def kept():
        variables = seq2seq().init(jax.random.key(0), *inputs)
        apply = partial(seq2seq().apply, mutable="intermediates")
        return apply({"params": variables["params"]}, *inputs)[1]["intermediates"]

    told = jax.eval_shape(kept)
    found = attention_rollout.self_attention_weights(told["decoder"])
    assert [a.shape[-2:] for a in found] == [(9, 9), (9, 9)]
    with pytest.raises(ValueError, match="layers of one shape"):
        attention_rollout.self_attention_weights(told)
    with pytest.raises(ValueError, match="got none"):
        attention_rollout.self_attention_weights({})


@pytest.mark.parametrize("gather", [vits.MEAN, vits.CLASS_TOKEN])
def test_a_gather_pools_and_reads_the_patches(gather):
    length = gather.extra_tokens + 4
    x = jax.random.normal(jax.random.key(0), (2, length, 3))
    shares = jnp.broadcast_to(jnp.full(length, 1 / length), (2, length, length))
    tokens = vits.token_positions((2, 2), gather)
    np.testing.assert_array_equal(tokens.position_BL[0, gather.extra_tokens :], range(4))
    pooled = gather.pool(x, masks.TokenPositions(*map(jnp.asarray, tokens)))
    np.testing.assert_allclose(pooled, x[:, 0] if gather.extra_tokens else x.mean(1), atol=1e-6)
    np.testing.assert_allclose(gather.patch_relevance(shares), np.full((2, 4), 1 / length))


# A reader of three classes, linear in what its patches hold: all is known of it.

WEIGHTS = jnp.asarray([[4.0, 0, 0], [0, 3, 0], [0, 0, 2], [0, 1, 0]])
PRIOR = jnp.asarray([0.0, 0.1, 0.2])
BLANK = jnp.full(1, -1.0)
RAW = jnp.asarray([[0.0, -1, -1, -1], [-1, 0, -1, 0], [1, 0, 0, -1]])[..., None]


def predict(raw):
    return (raw[..., 0] + 1) @ WEIGHTS + PRIOR[None]


def test_erased_patches_are_the_first_of_the_order():
    order = jnp.asarray([[2, 0, 1, 3]] * 3)
    got = deletion.erase(RAW + 5, order, jnp.asarray([0, 1, 3]), BLANK)[..., 0]
    want = [[5, 4, 4, 4], [4, 5, -1, 5], [-1, -1, -1, 4]]
    np.testing.assert_array_equal(got, want)


def test_with_all_erased_the_prior_is_left():
    order = deletion.descending_order(jax.random.uniform(jax.random.key(0), (3, 4)))
    left = deletion.erase(RAW, order, jnp.int32(4), BLANK)
    np.testing.assert_array_equal(predict(left), np.broadcast_to(PRIOR, (3, 3)))


def test_gradient_times_input_knows_a_linear_model():
    share = input_gradients.gradient_times_input(predict, RAW, BLANK)
    want = [[4, 0, 0, 0], [0, 3, 0, 1], [8, 0, 0, 0]]
    np.testing.assert_array_equal(share, want)


def test_a_study_tells_what_is_needed_from_what_is_not():
    needed = input_gradients.gradient_times_input(predict, RAW, BLANK)
    label = jnp.asarray([0, 1, 0])
    shares = {"needed": needed, "not": -needed}
    study = deletion.deletion_curves(
        predict, RAW, label, shares, blank_P=BLANK, points=9
    )
    assert study.counts == [0, 1, 2, 3, 4]
    np.testing.assert_allclose(study.curves["needed"], [1, 1 / 3, 0, 0, 0])
    np.testing.assert_allclose(study.curves["not"], [1, 1, 1, 1, 0])
    np.testing.assert_allclose(study.means["not"], 3.5 / 4)
    turned = deletion.erase_until_flip(predict, RAW, needed, BLANK)
    np.testing.assert_array_equal(turned.count, [1, 2, 1])
    np.testing.assert_array_equal(turned.to, [2, 2, 1])
    assert (predict(turned.left_BLP).argmax(-1) == turned.to).all()


def test_controls_know_the_ink():
    shares = deletion.baseline_scores(RAW, BLANK, jax.random.key(0))
    np.testing.assert_array_equal(shares["most ink"][0], [1, 0, 0, 0])
    inked = np.asarray(RAW[..., 0] > -1)
    assert (np.asarray(shares["any with ink"]) >= 1)[inked].all()
    assert (np.asarray(shares["any with ink"]) < 1)[~inked].all()


def test_probes_read_what_is_there():
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(3, 8)) * 4
    label, right = rng.integers(0, 3, 300), rng.integers(0, 3, 70)
    known, asked = (centres[k] + rng.normal(size=(len(k), 8)) for k in (label, right))
    told = linear_probe.pixel_baselines(known, label, asked, right, classes=3)
    assert min(told.values()) > 0.95, told
    shuffled = linear_probe.pixel_baselines(
        known, rng.permutation(label), asked, right, classes=3
    )
    assert max(shuffled.values()) < 0.6
    distance = np.square(asked[:, None] - known).sum(-1)
    found = linear_probe.nearest_neighbor(known, np.arange(300), asked)
    np.testing.assert_array_equal(found, distance.argmin(1))


def test_parts_are_of_one_shape_and_change_nothing():
    shapes = set()

    def doubled(part):
        shapes.add(part.shape)
        return 2 * part

    for count in (1, 4, 9):
        rows = np.arange(count * 3).reshape(count, 3)
        np.testing.assert_array_equal(
            linear_probe.map_batches(doubled, rows, at_once=4), 2 * rows
        )
    assert shapes == {(4, 3)}


def test_a_judge_refuses_other_images():
    def apply(params, raw, method):
        return raw.reshape(len(raw), -1)[:, :2] * params[method]

    params = {"__call__": 2.0, "features": 3.0}
    judge = image_classifier.from_apply(apply, params, raw=jnp.float32, shape=(2, 2, 1))
    images = np.arange(1200, dtype=np.uint8).reshape(300, 2, 2, 1)
    np.testing.assert_array_equal(judge.logits(images), 2.0 * images[:, 0, :, 0])
    np.testing.assert_array_equal(judge.features(images), 3.0 * images[:, 0, :, 0])
    for wrong in (images / 255, images[..., 0], images[:, :1]):
        with pytest.raises(ValueError, match=r"expected images uint8 \[N, 2, 2, 1\]"):
            judge.logits(wrong)
