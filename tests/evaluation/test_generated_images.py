"""Quality of class-conditional samples."""

from __future__ import annotations

import numpy as np
import pytest

from transformer.data.images import gray_levels
from transformer.data.sources import images as image_source
from transformer.evaluation import generated_images
from transformer.plots import sample_quality

RNG = np.random.default_rng(0)


def test_a_copy_is_at_distance_zero() -> None:
    known = RNG.integers(0, 256, (20, 4, 4, 1)).astype(np.uint8)
    assert generated_images.nn_distance(known[:5], known) == 0
    other = known[:5].astype(int) + np.where(known[:5] < 128, 51, -51)
    distance = generated_images.nn_distance(other.astype(np.uint8), known)
    assert distance == pytest.approx(0.2, abs=1e-6)


class BrightnessClassifier:
    """Two classes, dark and bright; the features are mean and deviation."""

    @staticmethod
    def features(images: np.ndarray) -> np.ndarray:
        flat = images.reshape(len(images), -1) / 255
        return np.stack([flat.mean(1), flat.std(1)], 1)

    @staticmethod
    def logits(images: np.ndarray) -> np.ndarray:
        bright = BrightnessClassifier.features(images)[:, 0]
        return np.stack([0.5 - bright, bright - 0.5], 1)


def test_a_study_has_the_quality_of_each_number_of_steps() -> None:
    label = np.repeat([0, 1], 10)
    held_out = np.clip(
        60 + 120 * label[:, None, None, None] + RNG.normal(0, 20, (20, 4, 4, 1)), 0, 255
    ).astype(np.uint8)
    reference = generated_images.reference_set(held_out, held_out, label, per_class=5)
    assert reference.label.tolist() == [0] * 5 + [1] * 5

    def sample(label: np.ndarray, steps: int) -> np.ndarray:
        """Perfect in two steps, black in one."""
        perfect = reference.held_out
        return perfect if steps == 2 else np.zeros_like(perfect)

    study = generated_images.evaluate_samples(
        BrightnessClassifier, sample, reference, steps=(1, 2)
    )
    numbers = generated_images.results(study)
    assert numbers["classifier_accuracy/steps_1"] == 0.5
    assert numbers["classifier_accuracy"] == numbers["classifier_accuracy/real"] == 1
    assert numbers["frechet_distance"] < numbers["frechet_distance/steps_1"]
    figures = sample_quality.figures(study)
    assert set(figures) == {"samples.png", "steps.png", "quality.png"}


def test_a_study_without_a_classifier_has_distances_alone() -> None:
    images = RNG.integers(0, 256, (8, 4, 4, 3)).astype(np.uint8)
    label = np.arange(8) // 4
    reference = generated_images.reference_set(images, images, label, per_class=2)
    study = generated_images.evaluate_samples(
        None, lambda label, steps: 0 * reference.held_out, reference, steps=(1, 2)
    )
    numbers = generated_images.results(study)
    assert set(numbers) == {"nn_distance", "nn_distance/real"}
    assert numbers["nn_distance"] > numbers["nn_distance/real"] == 0
    assert set(sample_quality.figures(study)) == {"samples.png", "steps.png"}


def test_quantized_images_are_compared_with_quantized_images() -> None:
    data = image_source.load("digits")
    quantized = gray_levels.quantize_records(data, gray_levels=4, factor=2)
    few = quantized._replace(
        train={name: a[:50] for name, a in quantized.train.items()},
        validation={name: a[:200] for name, a in quantized.validation.items()},
    )
    reference = generated_images.gray_reference_set(few, per_class=3)
    assert reference.label.tolist() == [c for c in range(10) for _ in range(3)]
    assert reference.held_out.shape == (30, 28, 28, 1) and len(reference.train) == 50
