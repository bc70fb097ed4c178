"""Films: motion that bounces, attention folded along one dimension, and what is
foretold."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import numpy as np
import pytest

from experiments import video
from transformer.models import defaults
from transformer.network import factorized_attention, masks
from transformer.plots import image_grid
from transformer.training import update

FRAMES, PLACES, KEY = 5, (2, 3), jax.random.key(0)
SIZE = PLACES[0] * PLACES[1]


def test_a_film_depends_on_its_seed_and_row_alone_and_the_splits_share_no_digit() -> (
    None
):
    small: Any = {"patch": 8, "depth": 2, "width": 32, "batch_size": 4}
    one, same, other = (video.experiment(**small, seed=n) for n in (0, 0, 1))
    whole = one.batch(3, range(4))["raw_BLP"]
    one.batch(5, range(4))
    np.testing.assert_array_equal(same.batch(3, [2])["raw_BLP"][0], whole[2])
    assert (whole[1] != whole[2]).any()
    assert (other.batch(3, range(4))["raw_BLP"] != whole).any()
    data = one.report.args[0].data
    train, held = (
        {image.tobytes() for image in part["image"]}
        for part in (data.train, data.validation)
    )
    assert len(train) > 1000 and len(held) > 500 and not train & held


@pytest.mark.parametrize("how", ["space", "time"])
def test_folded_attention_is_masked_attention_over_all(how: str) -> None:
    """The same parameters: within frames a block-diagonal mask of blocks of a frame,
    along time a causal mask of strides of a frame."""
    fold, mask, inner = {
        "space": (
            factorized_attention.within_frames(FRAMES),
            masks.block_sparse(np.eye(FRAMES, dtype=int).tolist(), SIZE),
            masks.full(),
        ),
        "time": (
            factorized_attention.along_time(FRAMES),
            masks.causal() & masks.strided(SIZE),
            masks.causal(),
        ),
    }[how]
    attend = partial(
        defaults.attention, width=32, output_init=defaults.fan_in_init(in_axis=(0, 1))
    )
    whole = attend(mask=mask)()
    folded = factorized_attention.FactorizedAttention(attend(mask=inner), fold, FRAMES)
    x_BLD = jax.random.normal(KEY, (2, FRAMES * SIZE, 32))
    tokens = masks.single_document(FRAMES * SIZE)
    params = whole.init(KEY, x_BLD, tokens)["params"]
    (name,) = folded.init(KEY, x_BLD, tokens)["params"]
    got = folded.apply({"params": {name: params}}, x_BLD, tokens)
    wanted = whole.apply({"params": params}, x_BLD, tokens)
    assert np.abs(np.asarray(wanted)).max() > 0.1
    np.testing.assert_allclose(got, wanted, atol=2e-5)
    with pytest.raises(ValueError, match="multiple of 5 frames' tokens, got 7"):
        folded.apply({"params": {name: params}}, x_BLD[:, :7], masks.single_document(7))


def test_training_lowers_the_loss_and_the_future_is_foretold_frame_by_frame() -> None:
    experiment = video.experiment(
        patch=8, depth=2, width=32, batch_size=4, steps=16, dtype="float32"
    )
    state = jax.jit(lambda: update.init_state(experiment))()
    advance = jax.jit(lambda *given: update.update(experiment, *given))
    losses = []
    for step in range(experiment.steps):
        state, told = advance(state, experiment.batch(step, range(4)))
        losses.append(experiment.metrics(told.loss)["loss"])
    assert np.mean(losses[-3:]) < 0.7 * losses[0]
    cinema = experiment.report.args[0]
    batch = experiment.evaluations["validation"].batch(0, range(2))
    known = video.KNOWN * cinema.per_frame
    film = jax.jit(cinema.foretold)(state.params, batch["raw_BLP"])
    np.testing.assert_array_equal(film[:, :known], batch["raw_BLP"][:, :known])
    blind = batch["raw_BLP"].copy()
    blind[:, known:] = 0.5
    again = jax.jit(cinema.foretold)(state.params, blind)
    np.testing.assert_allclose(film, again, atol=1e-5)
    said = jax.nn.sigmoid(cinema.logits(state.params, film))
    np.testing.assert_allclose(
        film[:, known:],
        said[:, known - cinema.per_frame : -cinema.per_frame],
        atol=1e-4,
    )
    pairs = np.stack([cinema.films(batch["raw_BLP"]), cinema.films(film)])
    assert image_grid.gif(pairs, known=video.KNOWN)[:6] == b"GIF89a"
