"""The CLIP experiment."""

from __future__ import annotations

from typing import Any

import numpy as np
import short_training

from experiments import clip
from transformer.evaluation import image_text_encoder

TINY: Any = {"depth": 1, "width": 32, "patch": 8, "vocab_size": 300, "seed": 1}


def test_training_lowers_the_loss_and_embeds_held_out_pairs() -> None:
    made = clip.experiment(
        **TINY, text_depth=1, batch_size=16, steps=40, dtype="float32"
    )
    trained = short_training.train(made)
    assert trained.ratio(3) < 0.97
    held = made.data.data.validation
    encoder = image_text_encoder.from_net(made.net, made.data, trained.params)
    images, names = encoder.images(held["image"][:5]), encoder.texts(held["text"][:3])
    assert images.shape == (5, 32) and names.shape == (3, 32)
    np.testing.assert_allclose(np.linalg.norm(images, axis=1), 1, rtol=1e-4)
    np.testing.assert_allclose(np.linalg.norm(names, axis=1), 1, rtol=1e-4)
    again = encoder.texts(held["text"][:1])
    np.testing.assert_allclose(again, names[:1], atol=1e-6)
