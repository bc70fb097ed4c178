"""Figures of class-conditional samples and their quality by sampling steps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from transformer.evaluation.generated_images import SampleQuality, SampleStudy
from transformer.plots import image_grid


def figures(study: SampleStudy, *, name: str = "samples") -> dict[str, Any]:
    """Figures by file name: samples of each class, the first sample of each class by
    sampling steps, and, where there was a classifier, `plot_quality_by_steps` with
    `name` in the legend."""
    label = study.reference.label
    firsts = np.unique(label, return_index=True)[1]
    main = list(study.samples.values())[-1]
    by_steps = np.stack([images[firsts] for images in study.samples.values()])
    samples = {
        "samples.png": image_grid.class_grid(main, label),
        "steps.png": image_grid.make_grid(by_steps),
    }
    if study.reference_quality is None:
        return samples
    curves = {name: study.quality}
    quality = plot_quality_by_steps(curves, held_out=study.reference_quality)
    return {**samples, "quality.png": quality}


def plot_quality_by_steps(
    curves: Mapping[str, Mapping[int, SampleQuality]],
    *,
    held_out: SampleQuality,
    title: str = "",
) -> Any:
    """A matplotlib figure of classifier accuracy and Fréchet distance against sampling
    steps. held_out: of real held-out images, a dashed line."""
    from matplotlib.figure import Figure

    figure = Figure((9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    for name, points in curves.items():
        accuracy = [100 * point.classifier_accuracy for point in points.values()]
        distance = [point.frechet_distance for point in points.values()]
        left.plot(list(points), accuracy, marker="o", label=name)
        right.plot(list(points), distance, marker="o", label=name)
    reference: Any = {"ls": "--", "color": "gray", "label": "real, held out"}
    left.axhline(100 * held_out.classifier_accuracy, **reference)
    right.axhline(held_out.frechet_distance, **reference)
    left.set(ylabel="classifier accuracy, %", ylim=(None, 102))
    right.set(ylabel="Fréchet distance", yscale="log")
    ticks = sorted({step for points in curves.values() for step in points})
    for axes in (left, right):
        axes.set_xscale("log", base=2)
        axes.set_xticks(ticks, [str(tick) for tick in ticks])
        axes.set_xlabel("sampling steps")
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.3)
    left.legend(frameon=False)
    if title:
        figure.suptitle(title)
    return figure
