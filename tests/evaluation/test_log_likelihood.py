"""log p(continuation | context) is the sum over the log-softmax of the whole row."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import pretrained_folder
import pytest

from transformer.evaluation import log_likelihood
from transformer.evaluation.log_likelihood import Continuation, LanguageModel
from transformer.models import decoder
from transformer.network import masks


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> LanguageModel:
    return pretrained_folder.language_model(tmp_path_factory.mktemp("model") / "llama")


@pytest.fixture(scope="module")
def logits(model) -> Any:
    """The logits of a whole row of `model.length` tokens."""
    tokens = masks.single_document(model.length)

    @jax.jit
    def apply(ids_BL: jax.Array) -> jax.Array:
        return decoder.logits(model.net.apply({"params": model.params}, ids_BL, tokens))

    return apply


def by_hand(logits: Any, item: Continuation) -> tuple[np.ndarray, np.ndarray]:
    """Log-probabilities and argmaxes in float64, from the logits of the whole row."""
    ids = item.context + item.tokens
    ids_BL = np.pad(np.array([ids], np.int32), ((0, 0), (0, 64 - len(ids))))
    logits_LV = np.asarray(logits(ids_BL), np.float64)[0, : len(ids) - 1]
    log_prob_LV = logits_LV - np.log(np.exp(logits_LV).sum(-1, keepdims=True))
    chosen_LV = log_prob_LV[len(item.context) - 1 :]
    own_L = chosen_LV[np.arange(len(item.tokens)), list(item.tokens)]
    return own_L, chosen_LV.argmax(-1) == item.tokens


def test_scores_are_those_of_whole_rows_in_a_batch_as_alone(model, logits) -> None:
    rng = np.random.default_rng(0)

    def make(context: int, tokens: int) -> Continuation:
        ids = rng.integers(0, 256, context + tokens).tolist()
        return Continuation(tuple(ids[:context]), tuple(ids[context:]))

    items = [make(3, 2), make(30, 1), make(1, 12), make(40, 9)]
    # Choices of one token share their context, and one of them is the best.
    context = items[1].context
    items += [Continuation(context, (token,)) for token in range(5)]
    score = log_likelihood.make_scorer(model, batch_tokens=96)
    together = score(items)
    for item, found in zip(items, together, strict=True):
        log_prob_L, best_L = by_hand(logits, item)
        np.testing.assert_allclose(found.log_prob_L, log_prob_L, atol=2e-5)
        np.testing.assert_array_equal(found.best_L, best_L)
        assert found.log_likelihood == pytest.approx(log_prob_L.sum(), abs=1e-4)
    for item, found in zip(items[:3], together, strict=False):
        (alone,) = score([item])
        np.testing.assert_allclose(alone.log_prob_L, found.log_prob_L, atol=1e-5)
    greedy = int(np.argmax([scores.log_likelihood for scores in together[4:]]))
    assert not any(s.best_L.all() for n, s in enumerate(together[4:]) if n != greedy)


def test_the_best_token_is_greedy(model) -> None:
    item = Continuation((7, 8, 9), (0,))
    score = log_likelihood.make_scorer(model)
    found = score([item._replace(tokens=(token,)) for token in range(256)])
    values = [one.log_likelihood for one in found]
    assert [bool(one.best_L[0]) for one in found].index(True) == np.argmax(values)
    assert sum(bool(one.best_L[0]) for one in found) == 1


def test_windows_score_each_token_once_with_the_most_context() -> None:
    """The example in the documentation of lm-evaluation-harness."""
    windows = log_likelihood.rolling_windows(range(10), 4, 99)
    assert windows == [
        Continuation((99,), (0, 1, 2, 3)),
        Continuation((3,), (4, 5, 6, 7)),
        Continuation((5, 6, 7), (8, 9)),
    ]
    bare = log_likelihood.rolling_windows(range(10), 4, None)
    assert [token for window in bare for token in window.tokens] == list(range(1, 10))
    assert all(len(w.context) + len(w.tokens) <= 5 for w in windows + bare)
    assert log_likelihood.rolling_windows([], 4, 99) == []
    assert log_likelihood.rolling_windows([3], 4, None) == []


def test_a_text_is_split_as_the_harness_splits_it(model) -> None:
    encode = log_likelihood.encode_continuation
    ids = tuple(model.tokenizer.encode("a dog").tolist())
    assert encode(model, "a", " dog") == Continuation(ids[:1], ids[1:])
    assert encode(model, "a ", "dog") == Continuation(ids[:1], ids[1:])
    assert encode(model, "", "a dog") == Continuation((258,), ids)
    bare = model._replace(prefix=None)
    assert encode(bare, "", "a dog") == Continuation(ids[:1], ids[1:])
    assert encode(model._replace(starts=(5,)), "a", "b").context == (5, ids[0])
    with pytest.raises(ValueError, match="expected a token to score, got none"):
        encode(model, "a", "")
    with pytest.raises(ValueError, match="expected a token to score, got none"):
        encode(bare, "", "a")


def test_what_does_not_fit_is_cut_or_refused(model) -> None:
    item = Continuation(tuple(range(100)), (1, 2, 3))
    clipped = log_likelihood.clip_context(item, model.length)
    assert clipped == Continuation(tuple(range(38, 100)), (1, 2, 3))
    score = log_likelihood.make_scorer(model)
    assert len(score([clipped])) == 1
    with pytest.raises(ValueError, match="expected at most 64 tokens with its context"):
        score([item])
    with pytest.raises(ValueError, match="expected at most 2 tokens"):
        log_likelihood.clip_context(item, 2)
    with pytest.raises(ValueError, match="expected 0 to 263, got 264"):
        score([Continuation((1,), (264,))])
    with pytest.raises(ValueError, match="after one or more, got 1 after 0"):
        score([Continuation((), (2,))])
