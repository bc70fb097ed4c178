"""Translations beside baselines, by the similarity of the nearest training sentence;
examples; and the words that attend to what they copy."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import numpy as np

from experiments import translate
from transformer.data.records import Records
from transformer.data.text import sentence_pairs
from transformer.evaluation import text_scores
from transformer.evaluation.baselines import tfidf
from transformer.generation import translation
from transformer.interpretability import alignment
from transformer.plots import alignments

# Edges of the buckets of cosine similarity to the nearest training sentence.
COSINES = (0.0, 0.5, 0.7, 1.01)
EXAMPLES = 20
ALIGNED_PAIRS, PLOTTED_WORDS = 300, (8, 16)


def cross_attention(
    net: Any, rows: Any, params: Any
) -> Iterator[tuple[np.ndarray, dict[str, np.ndarray]]]:
    """The mean over heads of each decoder layer's cross-attention, (B, N, L, M), and
    the batch, for each batch of the split `rows`."""

    @jax.jit
    def weights(batch: Mapping[str, jax.Array]) -> jax.Array:
        _, sown = translate.apply(net, params, batch, mutable="intermediates")
        return alignment.mean_over_heads(sown["intermediates"])

    for step in range(rows.batches):
        batch = rows.batch(step, range(rows.batch_size))
        yield np.asarray(weights(batch)), batch


def copy_study(
    net: Any,
    tokenizer: Any,
    params: Any,
    sources: Sequence[str],
    translations: Sequence[str],
    *,
    length: int,
) -> alignment.CopyStudy | None:
    """How often words that a translation copies attend most to their copy; None where
    no translation fits a row, as those of an untrained model."""
    pairs = sentence_pairs.encode_pairs(tokenizer, sources, translations)
    rows = sentence_pairs.validation(
        pairs, end=tokenizer.end, length=length, batch_size=8
    )
    batches = cross_attention(net, rows, params)
    found = list(alignment.alignments(batches, tokenizer.decode))
    if not found:
        print("no alignment: expected translations that fit a row, got none")
        return None
    return alignment.copy_study(found, words=PLOTTED_WORDS)


def scores(
    systems: Mapping[str, Sequence[str]],
    references: Sequence[str],
    near: tfidf.NearestSentences,
) -> dict[str, float]:
    """BLEU and chrF of each system by `metric/system`; BLEU of the model and of the
    nearest neighbor by bucket of cosine that has pairs, with their number."""
    results: dict[str, float] = {
        f"{metric}/{system}": score
        for system, texts in systems.items()
        for metric, score in text_scores.translation_scores(texts, references).items()
    }
    for bucket, chosen in tfidf.bucket_by_similarity(near, COSINES).items():
        results[f"pairs/cosine_{bucket}"] = len(chosen)
        if not chosen:
            continue
        wanted = [references[n] for n in chosen]
        for system in ("beam_search", "tfidf_nn"):
            texts = [systems[system][n] for n in chosen]
            results[f"bleu/{system}/cosine_{bucket}"] = text_scores.bleu(texts, wanted)
    return results


def report(
    net: Any,
    translator: translation.Translator,
    data: Records,
    sides: tuple[str, str],
    sequence_length: int,
    params: Any,
    key: jax.Array,
) -> dict[str, Any]:
    """Numbers, and examples and a figure by file name."""
    sources, references = (data.validation[side].tolist() for side in sides)
    known, known_targets = (data.train[side].tolist() for side in sides)
    translate_all = partial(translation.translate, translator, params, sources)
    near = tfidf.nearest(known, sources)
    systems = {
        "beam_search": translate_all(),
        "greedy": translate_all(beam_size=1, length_penalty=0.0),
        "tfidf_nn": [known_targets[n] for n in near.index],
        "source_copy": sources,
    }
    study = copy_study(
        net,
        translator.tokenizer,
        params,
        sources[:ALIGNED_PAIRS],
        systems["beam_search"][:ALIGNED_PAIRS],
        length=sequence_length,
    )
    rng = np.random.default_rng(int(jax.random.bits(key)))
    examples = [
        f"source       {sources[n]}\nreference    {references[n]}\n"
        f"beam search  {systems['beam_search'][n]}\n"
        f"nearest      {systems['tfidf_nn'][n]}\n"
        for n in rng.permutation(len(sources))[:EXAMPLES]
    ]
    results = scores(systems, references, near)
    files: dict[str, Any] = {"translations.txt": "\n".join(examples)}
    if study is not None:
        results |= {
            "alignment_accuracy": study.accuracy,
            "alignment_layer": study.layer,
        }
    if study is not None and study.examples:
        files["alignment.png"] = alignments.plot_alignments(study.examples)
    return {"results.json": {**results, "pairs": len(sources)}, **files}
