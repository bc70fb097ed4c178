"""A text classifier beside a character n-gram baseline, and its worst mistakes."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from transformer.data.records import Records
from transformer.data.text import labeled_rows, tokenizers
from transformer.evaluation import image_classifier
from transformer.evaluation.baselines import char_ngrams
from transformer.models import encoder

MISTAKES = 20


def report(
    net: encoder.Classifier, tokenizer: tokenizers.Tokenizer, data: Records, params: Any
) -> dict[str, Any]:
    """Held-out accuracies, and the mistakes, the most confident first."""
    train, held_out = data.train, data.validation
    text, label = held_out["text"].tolist(), held_out["label"]
    rows = labeled_rows.encode(tokenizer, held_out, length=labeled_rows.LENGTH)
    logits = jax.jit(encoder.logits(net))
    logits_BV = image_classifier.map_batches(
        lambda index: logits(params, {name: a[index] for name, a in rows.items()}),
        np.arange(len(label)),
    )
    predicted = logits_BV.argmax(1)
    margin = logits_BV.max(1) - logits_BV[np.arange(len(label)), label]
    wrong = np.argsort(-margin)[: min(MISTAKES, int((predicted != label).sum()))]
    mistakes = [
        f"{data.labels[label[n]]}, predicted {data.labels[predicted[n]]}: {text[n]}\n"
        for n in wrong
    ]
    baseline = char_ngrams.ngram_classifier_accuracy(
        train["text"].tolist(), train["label"], text, label
    )
    accuracy = float(np.mean(predicted == label))
    return {
        "results.json": {"accuracy": accuracy, "accuracy/char_ngrams": baseline},
        "mistakes.txt": "\n".join(mistakes),
    }
