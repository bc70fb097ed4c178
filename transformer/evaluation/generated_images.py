"""Quality of class-conditional samples: classifier accuracy, Fréchet distance, and
distance to the nearest training image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from transformer.evaluation import frechet
from transformer.evaluation.baselines import nearest_neighbor


class ReferenceSet(NamedTuple):
    """Real 8-bit images [N, ...]: the training images, and held-out images, as many of
    each class, sorted by class, with their labels."""

    train: np.ndarray
    held_out: np.ndarray
    label: np.ndarray


def reference_set(
    train: np.ndarray, held_out: np.ndarray, label: np.ndarray, *, per_class: int
) -> ReferenceSet:
    """The first `per_class` held-out images of each class; all if there are fewer."""
    by_class = [np.flatnonzero(label == c)[:per_class] for c in np.unique(label)]
    chosen = np.concatenate(by_class)
    return ReferenceSet(train, held_out[chosen], label[chosen])


def gray_reference_set(quantized: Any, *, per_class: int) -> ReferenceSet:
    """`reference_set` of a `data.images.gray_levels.QuantizedImages`, as it quantizes
    them."""
    held_out = quantized.validation
    return reference_set(
        quantized.decode(quantized.train["ids_BL"]),
        quantized.decode(held_out["ids_BL"]),
        held_out["label_B"],
        per_class=per_class,
    )


class SampleQuality(NamedTuple):
    """classifier_accuracy: the fraction of samples that a classifier assigns to the
    class they were sampled for. frechet_distance: from training images, in the
    classifier's features."""

    classifier_accuracy: float
    frechet_distance: float


def sample_quality(
    classifier: Any, images: np.ndarray, label: np.ndarray, reference: np.ndarray
) -> SampleQuality:
    """The quality of 8-bit images sampled for the classes `label` [N].

    classifier: an `image_classifier.ImageClassifier`. reference: features [N, D] of the
    training images.
    """
    correct = classifier.logits(images).argmax(1) == label
    distance = frechet.frechet_distance(classifier.features(images), reference)
    return SampleQuality(float(correct.mean()), distance)


def nn_distance(images: np.ndarray, reference: np.ndarray) -> float:
    """The median distance, root mean square over pixels, from an 8-bit image to the
    nearest reference image. Samples far below real held-out images are copies."""
    flat, others = (
        a.reshape(len(a), -1).astype(np.float32) / 255 for a in (images, reference)
    )
    nearest = others[nearest_neighbor.nearest(others, flat).index]
    return float(np.median(np.sqrt(np.square(flat - nearest).mean(1))))


class SampleStudy(NamedTuple):
    """samples, quality: by number of sampling steps; the last number is the main one.
    reference_quality: of the real held-out images; quality is empty and this None where
    there is no classifier."""

    samples: dict[int, np.ndarray]
    quality: dict[int, SampleQuality]
    reference: ReferenceSet
    reference_quality: SampleQuality | None


def evaluate_samples(
    classifier: Any,
    sample: Callable[[np.ndarray, int], np.ndarray],
    reference: ReferenceSet,
    *,
    steps: Sequence[int],
) -> SampleStudy:
    """Samples for the labels of the reference set by each number of steps, and their
    quality. sample(label, steps): 8-bit images. classifier: as of `sample_quality`, or
    None."""
    samples = {count: sample(reference.label, count) for count in steps}
    if classifier is None:
        return SampleStudy(samples, {}, reference, None)
    features = classifier.features(reference.train)

    def quality(images: np.ndarray) -> SampleQuality:
        return sample_quality(classifier, images, reference.label, features)

    return SampleStudy(
        samples,
        {count: quality(images) for count, images in samples.items()},
        reference,
        quality(reference.held_out),
    )


def results(study: SampleStudy) -> dict[str, float]:
    """The numbers of a study, by name."""
    *fewer, main = study.samples
    train, held_out = study.reference.train, study.reference.held_out
    distances = {
        "nn_distance": nn_distance(study.samples[main], train),
        "nn_distance/real": nn_distance(held_out, train),
    }
    if study.reference_quality is None:
        return distances
    numbers = {
        **_by_name(study.quality[main]),
        **_by_name(study.reference_quality, "/real"),
        **distances,
    }
    for steps in fewer:
        numbers |= _by_name(study.quality[steps], f"/steps_{steps}")
    return numbers


def _by_name(quality: SampleQuality, suffix: str = "") -> dict[str, float]:
    return {f"{name}{suffix}": value for name, value in quality._asdict().items()}
