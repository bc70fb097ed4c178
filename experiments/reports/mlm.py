"""A masked language model: accuracy beside n-gram baselines, a linear probe of its
features, and filled passages; `gap_filling_report` is that of any model that fills
gaps."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments import mlm
from transformer import axes
from transformer.data.text import windows
from transformer.evaluation import source_probe
from transformer.evaluation.baselines import ngram
from transformer.generation import fill_in
from transformer.models import bert
from transformer.network import precision
from transformer.objectives import cross_entropy
from transformer.objectives.loss import Loss
from transformer.plots import cloze
from transformer.training import evaluation
from transformer.training.experiment import Experiment

PASSAGES, PROBE_LENGTH = 4, 64
# One masked token in so many: the counts of four neighbors see all of theirs.
SPACING = 7
# More tokens change n-gram counts little, more texts make the probe slow.
NGRAM_TOKENS, PROBE_TEXTS = 20_000_000, 64
# (ids [L], rng) -> the pieces that remain, and the removed ids between them.
Remove = Callable[
    [np.ndarray, np.random.Generator], tuple[list[np.ndarray], list[np.ndarray]]
]


def mask_tokens(
    ids: np.ndarray, rng: np.random.Generator
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Remove `EVALUATION_RATIO` of the tokens, each a gap of its own."""
    count = round(mlm.EVALUATION_RATIO * len(ids))
    place = np.sort(rng.choice(len(ids), count, replace=False))
    pieces = np.split(ids, np.stack([place, place + 1], axis=1).reshape(-1))
    return pieces[::2], pieces[1::2]


def fill_passages(
    remove: Remove,
    model: fill_in.FillIn,
    held_out: windows.Windows,
    params: Any,
    key: jax.Array,
) -> list[fill_in.Passage]:
    """Random windows with gaps that the model has filled."""
    rng = np.random.default_rng(int(jax.random.bits(key)))
    passages = []
    for number in rng.choice(len(held_out.rows["start"]), PASSAGES):
        pieces, removed = remove(held_out.window(number), rng)
        predicted = model.fill(params, pieces)
        decode = model.tokenizer.decode
        passages.append(fill_in.passage(pieces, removed, predicted, decode))
    return passages


def first_tokens(
    texts: Iterable[np.ndarray], *, least: int, most: int = NGRAM_TOKENS
) -> list[np.ndarray]:
    """The first texts, until they have `most` tokens, without those of less than
    `least`."""
    chosen, total = [], 0
    for ids in texts:
        if total >= most:
            break
        if len(ids) >= least:
            chosen.append(ids)
            total += len(ids)
    return chosen


def ngram_accuracies(parts: windows.TextSplits, *, vocab_size: int) -> dict[str, float]:
    """Accuracy of n-gram baselines, by `accuracy/name`; empty where no text has five
    tokens.

    Their counts include the tails, on which the model is not trained. Both splits are
    cut off at `NGRAM_TOKENS`. `accuracy/visible_neighbors` is of four neighbors of
    which `EVALUATION_RATIO` are masked, as they are for the model; the other baselines
    see all neighbors."""
    whole = parts.train._replace(stops=parts.train_tails.stops)
    known = first_tokens(whole.arrays(), least=5)
    held_out = first_tokens(parts.validation.arrays(), least=5)
    if not (known and held_out):
        print("no n-gram baselines: expected texts of 5 tokens or more")
        return {}
    options: Any = {"vocab_size": vocab_size, "mask_ratio": mlm.EVALUATION_RATIO}
    return ngram.ngram_accuracies(known, held_out, **options)


def probe_accuracies(
    features: Callable[[Any, jax.Array], jax.Array],
    params: Mapping[str, Any],
    parts: windows.TextSplits,
) -> dict[str, float]:
    """Accuracy of the linear probe for the text that a passage is from, among the texts
    whose tails have two passages; empty where these are not 2 to `PROBE_TEXTS`."""
    tails = (*parts.train_tails.arrays(), *parts.validation_tails.arrays())
    texts = [ids for ids in tails if len(ids) >= 2 * PROBE_LENGTH]
    if not 2 <= len(texts) <= PROBE_TEXTS:
        print(
            f"no linear probe: expected 2 to {PROBE_TEXTS} texts with tails of "
            f"{2 * PROBE_LENGTH} tokens, got {len(texts)} of {len(tails)}"
        )
        return {}
    return source_probe.source_probe_accuracy(
        features, params, texts, length=PROBE_LENGTH
    )


def gap_filling_report(
    remove: Remove,
    experiment: Experiment,
    model: fill_in.FillIn,
    pooled_features: Callable[[Any, jax.Array], jax.Array],
    params: Any,
    key: jax.Array,
) -> dict[str, Any]:
    """The report of a model that fills gaps: numbers, and passages as text and as a
    figure.

    remove: makes the gaps of a passage. pooled_features(params, ids_BL): features
    (B, D) of each row.
    """
    parts: windows.TextSplits = experiment.data
    measure = experiment.evaluations["validation"]
    mesh = axes.current_mesh()
    accuracy = measure.metrics(evaluation.total_loss(measure, params, mesh))
    counts = ngram_accuracies(parts, vocab_size=model.tokenizer.vocab_size)
    probe = probe_accuracies(
        pooled_features, {"trained": params, "random": experiment.init(key)}, parts
    )
    length = experiment.tokens_per_row
    held_out = windows.cut_windows(parts.validation, length=length)
    passages = fill_passages(remove, model, held_out, params, key)
    return {
        "results.json": {"accuracy": accuracy["accuracy"], **counts, **probe},
        "filled.txt": "\n\n----\n\n".join(map(fill_in.marked_text, passages)) + "\n",
        "filled.png": cloze.plot_passages(passages),
    }


def isolated_accuracy(experiment: Experiment, compute_dtype: str, params: Any) -> float:
    """Accuracy where one token in `SPACING` is masked, so that each has its neighbors,
    as it has for the counts. Each row begins at a random one."""
    net = experiment.net

    def loss(params: Any, batch: Mapping[str, jax.Array], key: jax.Array) -> Loss:
        ids_BL, segment_BL = batch["ids_BL"], batch["segment_BL"]
        first_B1 = jax.random.randint(key, (len(ids_BL), 1), 0, SPACING)
        index_L = jnp.arange(ids_BL.shape[1])
        masked_BL = (index_L[None] % SPACING == first_B1) & (segment_BL > 0)
        inputs_BL = jnp.where(masked_BL, net.vocab_size - 1, ids_BL)
        weights = precision.cast_weights(params, compute_dtype)
        x_BLD, w_VD = bert.apply(net, weights, inputs_BL, segment_BL)
        weight_BL = masked_BL * batch["weight_B"][:, None]
        return cross_entropy.fused_cross_entropy(x_BLD, w_VD, ids_BL, weight_BL)

    measure = experiment.evaluations["validation"]._replace(loss=loss)
    total = evaluation.total_loss(measure, params, axes.current_mesh())
    return measure.metrics(total)["accuracy"]


def report(
    experiment: Experiment,
    model: fill_in.FillIn,
    compute_dtype: str,
    params: Any,
    key: jax.Array,
) -> dict[str, Any]:
    """`gap_filling_report` of a masked language model, and `isolated_accuracy`."""

    def pooled_features(params: Any, ids_BL: jax.Array) -> jax.Array:
        weights = precision.cast_weights(params, compute_dtype)
        return bert.apply(experiment.net, weights, ids_BL, method="pooled_features")

    arguments = experiment, model, pooled_features, params, key
    files = gap_filling_report(mask_tokens, *arguments)
    isolated = isolated_accuracy(experiment, compute_dtype, params)
    return {
        **files,
        "results.json": {"accuracy/isolated": isolated, **files["results.json"]},
    }
