"""What a judge says of images drawn by class, in few steps and in many."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from transformer.evaluation import frechet
from transformer.plots import image_grid


class Real(NamedTuple):
    """Real 8-bit images [N, ...]: those that a model was trained on, and as many of
    each class that it has not seen, in the classes' order, with their `label`."""

    train: np.ndarray
    unseen: np.ndarray
    label: np.ndarray


def real(train: np.ndarray, held: np.ndarray, label: np.ndarray, *, each: int) -> Real:
    """The first `each` held-out images of each class; all, where there are fewer."""
    some = [np.flatnonzero(label == c)[:each] for c in np.unique(label)]
    chosen = np.concatenate(some)
    return Real(train, held[chosen], label[chosen])


def grey(greys: Any, *, each: int) -> Real:
    """`real` of a `data.levels.Greys`, in its few grey levels."""
    held = greys.validation
    return real(
        greys.images(greys.train["ids_BL"]),
        greys.images(held["ids_BL"]),
        held["label_B"],
        each=each,
    )


def study(
    judge: Any,
    draw: Callable[[np.ndarray, int], np.ndarray],
    real: Real,
    *,
    steps: Sequence[int],
    name: str = "drawn",
) -> tuple[dict[str, float], dict[str, Any]]:
    """Numbers, and pictures by file name, of what `draw` makes of the classes of the
    unseen images in each of some numbers of steps; the last is the one that counts.

    draw(label, steps): 8-bit images. judge: as for `distance.quality`.
    """
    features = judge.features(real.train)
    drawn = {count: draw(real.label, count) for count in steps}
    points = {
        count: frechet.quality(judge, images, real.label, features)
        for count, images in drawn.items()
    }
    ideal = frechet.quality(judge, real.unseen, real.label, features)
    best = drawn[steps[-1]]
    numbers = {
        "recognised": points[steps[-1]].recognised,
        "recognised, real": ideal.recognised,
        "Frechet distance": points[steps[-1]].distance,
        "Frechet distance, real": ideal.distance,
        "nearest training image": frechet.nearest(best, real.train),
        "nearest training image, real": frechet.nearest(real.unseen, real.train),
        **_by_steps({count: points[count] for count in steps[:-1]}),
    }
    firsts = np.unique(real.label, return_index=True)[1]
    pictures = {
        "samples.png": image_grid.sheet(_by_class(best, real.label)),
        "steps.png": image_grid.sheet(np.stack([a[firsts] for a in drawn.values()])),
        "quality.png": image_grid.steps({name: points}, real=ideal),
    }
    return numbers, pictures


def _by_steps(points: Mapping[int, frechet.Quality]) -> dict[str, float]:
    told = {"recognised": "recognised", "distance": "Frechet distance"}
    return {
        f"{told[what]}, {count} steps": number
        for count, point in points.items()
        for what, number in point._asdict().items()
    }


def _by_class(images: np.ndarray, label: np.ndarray, most: int = 10) -> np.ndarray:
    """[classes, up to `most`, ...]."""
    rows = [images[label == c][:most] for c in np.unique(label)]
    fewest = min(len(row) for row in rows)
    return np.stack([row[:fewest] for row in rows])


def generate(
    images: Callable[..., np.ndarray],
    params: Any,
    key: jax.Array,
    *,
    digits: str = "2026",
    updates: int = 32,
    draw: int = 0,
) -> None:
    """Draw digits on the terminal: 8-bit images(params, classes [N], key, steps=steps).

    Args:
        digits: which, in a row.
        updates: steps of generation; fewer are faster and coarser.
        draw: which draw; another number makes others.
    """
    key = jax.random.fold_in(key, draw)
    label = np.asarray([int(digit) for digit in digits])
    print(image_grid.typed(images(params, label, key, steps=updates)))
