"""log p(continuation | context) of any decoder, token by token, in few programs.

Rows are padded to powers of two and only the features of scored positions are
multiplied with the vocabulary, so that thousands of requests of all lengths take a
handful of compilations, and no logits of whole rows are held.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from transformer import checks
from transformer.network.masks import TokenPositions
from transformer.network.precision import unembed
from transformer.objectives import cross_entropy

# Positions whose logits are held at once, of each row.
CHUNK = 256
SMALLEST_ROW, SMALLEST_CHUNK = 32, 4


class LanguageModel(NamedTuple):
    """A decoder, its parameters and its tokenizer.

    length: tokens that it attends to, at most. starts: tokens that its tokenizer puts
    before each text. prefix: the token that stands before a text without context; None
    for a model that has none, which does not predict the first token of a text.
    """

    net: Any
    params: Any
    tokenizer: Any
    length: int
    starts: tuple[int, ...] = ()
    prefix: int | None = None


class Continuation(NamedTuple):
    """Tokens to score, and those before them, which must be at least one."""

    context: tuple[int, ...]
    tokens: tuple[int, ...]


class TokenScores(NamedTuple):
    """log_prob_L: float64, nats of each token. best_L: whether it is the argmax, by
    `cross_entropy.is_best`."""

    log_prob_L: np.ndarray
    best_L: np.ndarray

    @property
    def log_likelihood(self) -> float:
        """Of the whole continuation."""
        return float(self.log_prob_L.sum())


Scorer = Callable[[Sequence[Continuation]], list[TokenScores]]


def power_of_two(number: int, *, least: int = 1) -> int:
    """The smallest power of two that is `number` or more, and `least` or more."""
    return max(least, 1 << (number - 1).bit_length())


def make_scorer(model: LanguageModel, *, batch_tokens: int = 2048) -> Scorer:
    """A function that scores any number of continuations, about `batch_tokens` at a
    time. ValueError for ids outside the vocabulary, and for more tokens than
    `model.length`: `clip_context` cuts them."""
    program = jax.jit(_score_program(model.net))

    def score(items: Sequence[Continuation]) -> list[TokenScores]:
        for item in items:
            _check(item, model)
        found: dict[int, TokenScores] = {}
        for rows, length, chunk in _batches(items, model.length, batch_tokens):
            arrays = _arrays(items, rows, length, chunk, batch_tokens)
            log_prob_BC, best_BC = jax.device_get(program(model.params, *arrays))
            for row, group in enumerate(rows):
                start = 0
                for number in group:
                    stop = start + len(items[number].tokens)
                    found[number] = TokenScores(
                        log_prob_BC[row, start:stop].astype(np.float64),
                        best_BC[row, start:stop],
                    )
                    start = stop
        return [found[number] for number in range(len(items))]

    return score


def _check(item: Continuation, model: LanguageModel) -> None:
    if not item.context or not item.tokens:
        raise ValueError(
            "continuation: expected a token or more, after one or more, got "
            f"{len(item.tokens)} after {len(item.context)}"
        )
    tokens = len(item.context) + len(item.tokens) - 1
    if tokens > model.length:
        raise ValueError(
            f"continuation: expected at most {model.length} tokens with its context, "
            f"which the model attends to, got {tokens}"
        )
    ids = item.context + item.tokens
    checks.check_indices("token", ids, model.net.vocab_size)


def _input(item: Continuation) -> tuple[int, ...]:
    return item.context + item.tokens[:-1]


# Requests of one input: the rows of a batch.
Rows = list[list[int]]


def _batches(
    items: Sequence[Continuation], longest: int, batch_tokens: int
) -> Iterator[tuple[Rows, int, int]]:
    """(rows, their length, scored positions) of each batch. Continuations of one token
    that share their context are one row, as the choices of a question often do."""
    shared: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for number, item in enumerate(items):
        shared[_input(item)].append(number)
    sizes: dict[tuple[int, int], Rows] = defaultdict(list)
    for ids, group in shared.items():
        length = min(longest, power_of_two(len(ids), least=SMALLEST_ROW))
        scored = sum(len(items[number].tokens) for number in group)
        # By fours: a few positions more cost less than another compilation.
        chunk = power_of_two(scored, least=SMALLEST_CHUNK)
        chunk *= 1 + (chunk.bit_length() % 2 == 0)
        sizes[length, chunk].append(group)
    for (length, chunk), rows in sorted(sizes.items()):
        most = max(1, batch_tokens // length)
        for start in range(0, len(rows), most):
            yield rows[start : start + most], length, chunk


def _arrays(
    items: Sequence[Continuation],
    rows: Rows,
    length: int,
    chunk: int,
    batch_tokens: int,
) -> tuple[np.ndarray, ...]:
    """ids_BL, real_B, at_BC, target_BC of a batch, padded with rows of zeros."""
    most = max(1, batch_tokens // length)
    batch = min(most, power_of_two(len(rows)))
    ids_BL = np.zeros((batch, length), np.int32)
    real_B = np.ones(batch, np.int32)
    at_BC = np.zeros((batch, chunk), np.int32)
    target_BC = np.zeros((batch, chunk), np.int32)
    for row, group in enumerate(rows):
        ids = _input(items[group[0]])
        ids_BL[row, : len(ids)], real_B[row] = ids, len(ids)
        start = 0
        for number in group:
            tokens = items[number].tokens
            stop = start + len(tokens)
            at_BC[row, start:stop] = np.arange(len(ids) - len(tokens), len(ids))
            target_BC[row, start:stop] = tokens
            start = stop
    return ids_BL, real_B, at_BC, target_BC


def _score_program(net: Any) -> Callable[..., tuple[jax.Array, jax.Array]]:
    def program(
        params: Any,
        ids_BL: jax.Array,
        real_B: jax.Array,
        at_BC: jax.Array,
        target_BC: jax.Array,
    ) -> tuple[jax.Array, jax.Array]:
        index_BL = jnp.broadcast_to(jnp.arange(ids_BL.shape[1]), ids_BL.shape)
        segment_BL = (index_BL < real_B[:, None]).astype(jnp.int32)
        tokens = TokenPositions(index_BL, index_BL, segment_BL)
        x_BLD, w_VD = net.apply({"params": params}, ids_BL, tokens)

        def score(places: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
            at_BC, target_BC = places
            x_BCD = jnp.take_along_axis(x_BLD, at_BC[..., None], axis=1)
            logits_BCV = unembed("BCD,VD->BCV", x_BCD, w_VD)
            own_BC = jnp.take_along_axis(logits_BCV, target_BC[..., None], axis=-1)
            own_BC = own_BC[..., 0]
            log_sum_BC = jax.nn.logsumexp(logits_BCV, axis=-1)
            best_BC = cross_entropy.is_best(logits_BCV, own_BC, target_BC)
            return own_BC - log_sum_BC, best_BC

        rows, chunk = at_BC.shape
        part = min(CHUNK, chunk)
        places = [
            a.reshape(rows, chunk // part, part).swapaxes(0, 1)
            for a in (at_BC, target_BC)
        ]
        log_prob, best = jax.lax.map(score, tuple(places))
        return (
            log_prob.swapaxes(0, 1).reshape(rows, chunk),
            best.swapaxes(0, 1).reshape(rows, chunk),
        )

    return program


def clip_context(item: Continuation, length: int) -> Continuation:
    """`item` with the last tokens of its context only, as many as fit. ValueError where
    the continuation itself does not."""
    room = length + 1 - len(item.tokens)
    if room < 1:
        raise ValueError(
            f"continuation: expected at most {length} tokens, which the model attends "
            f"to, got {len(item.tokens)}"
        )
    return item._replace(context=item.context[-room:])


def rolling_windows(
    ids: Sequence[int], length: int, prefix: int | None
) -> list[Continuation]:
    """Windows of `length` tokens that score each token of a text once, the last with as
    much context as fits. Without a prefix the first token is not scored."""
    row = tuple(ids) if prefix is None else (prefix, *ids)
    windows, start = [], 1
    while start < len(row):
        stop = min(start + length, len(row))
        first = 0 if start == 1 else max(0, stop - 1 - length)
        windows.append(Continuation(row[first:start], row[start:stop]))
        start = stop
    return windows


def encode_continuation(
    model: LanguageModel, context: str, continuation: str
) -> Continuation:
    """The tokens of a text and of its continuation, as EleutherAI's evaluation harness
    splits them: spaces at the end of the context belong to the continuation, and the
    context has as many tokens as it has alone.

    Without a context the prefix is it; for a model that has none, the first token of
    the continuation, which is not scored. ValueError where no token is left to score.
    """
    for name, text in (("context", context), ("continuation", continuation)):
        checks.utf8(name, text)
    bare = context.rstrip()
    continuation = context[len(bare) :] + continuation
    whole = tuple(model.tokenizer.encode(bare + continuation).tolist())
    length = len(model.tokenizer.encode(bare)) if bare else 0
    before, tokens = whole[:length], whole[length:]
    if before:
        before = (*model.starts, *before)
    elif model.prefix is None or tokens[:1] == (model.prefix,):
        before, tokens = tokens[:1], tokens[1:]
    else:
        before = (model.prefix,)
    if not tokens:
        raise ValueError(
            f"continuation: expected a token to score, got none in {continuation!r} "
            f"after {bare[-20:]!r}"
        )
    return Continuation(before, tokens)
