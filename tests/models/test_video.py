"""The video predictor: attention within frames and along time, causal in time."""

from __future__ import annotations

from functools import partial

import jax
import numpy as np
from cases import random_params

from transformer.models import video
from transformer.network import masks

FRAMES, GRID, KEY = 5, (2, 3), jax.random.key(0)
SIZE = GRID[0] * GRID[1]


def test_a_token_sees_all_of_its_frame_and_of_those_before() -> None:
    net = video.video_predictor(
        frames=FRAMES, grid=GRID, patch_features=4, depth=4, width=32
    )
    init = partial(video.init_params, length=FRAMES * SIZE)
    params = random_params(net, init_params=init)
    raw_BLP = jax.random.normal(KEY, (1, FRAMES * SIZE, 4))
    tokens = masks.single_document(FRAMES * SIZE)
    run = jax.jit(lambda raw: net.apply({"params": params}, raw, tokens))
    changed = raw_BLP.at[0, 2 * SIZE + 4].add(1.0)
    apart = np.abs(np.asarray(run(changed) - run(raw_BLP)))[0].max(-1)
    assert apart[: 2 * SIZE].max() < 1e-6 < 1e-5 < apart[2 * SIZE :].min()
