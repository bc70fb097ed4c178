"""One transformer for every kind of sequence, in JAX and Flax Linen."""

from typing import Any

__version__ = "0.1.0"


def load(folder: Any, *, checkpoint: str = "newest", **slots: Any) -> Any:
    """The run in `folder`: see `transformer.loading.load`."""
    from transformer import loading

    return loading.load(folder, checkpoint=checkpoint, **slots)
