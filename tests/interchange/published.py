"""What is checked of a published configuration, without its weights."""

from __future__ import annotations

import math
from typing import Any

import jax

from transformer.interchange import architecture
from transformer.interchange.config import Reader
from transformer.training.checksum import leaf_paths


def check(name: str, count: int, values: dict[str, Any]) -> None:
    """Every key of config.json is understood or harmless, the net has `count`
    parameters, and what is written says the same."""
    kind = architecture.find_of(values, name)
    config = Reader(values, name)
    sizes = kind.read(config)
    config.finish()
    # A scanned stack has equal numbers and is traced once.
    sizes = sizes._replace(scanned=True)
    net = kind.net(sizes)
    shapes = jax.eval_shape(lambda: kind.init(net, jax.random.key(0)))
    assert sum(math.prod(a.shape) for a in leaf_paths(shapes).values()) == count
    again = Reader(kind.write(sizes), name)
    assert kind.read(again) == sizes._replace(scanned=False)
    again.finish()
