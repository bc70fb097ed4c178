"""EleutherAI's lm-evaluation-harness on any of our language models.

    pip install 'lm-eval>=0.4.9'
    python -m transformer lm_eval FOLDER --tasks=NAME --include_path=FOLDER_OF_YAML

The adapter gives the library its three functions: log-likelihoods of continuations,
those of whole texts in rolling windows, and continuations until a string.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax

from transformer.evaluation import log_likelihood
from transformer.evaluation.log_likelihood import Continuation, LanguageModel
from transformer.generation import decoding, stop_strings, text_model

NEW_TOKENS = 256
# (messages, whether a reply begins) -> their text.
Chat = Callable[[Sequence[Mapping[str, str]], bool], str]
SAMPLING = ("temperature", "top_k", "top_p", "min_p")


def library() -> Any:
    """The package lm_eval. ValueError where it is missing."""
    try:
        return importlib.import_module("lm_eval")
    except ImportError as error:
        raise ValueError(
            "lm_eval: expected the package lm-eval, got none; pip install lm-eval "
            f"({error})"
        ) from None


class GenerationOptions(NamedTuple):
    """The generation_kwargs of a task that are understood."""

    until: tuple[str, ...]
    new_tokens: int
    sampling: tuple[tuple[str, Any], ...]


def parse_options(options: Mapping[str, Any]) -> GenerationOptions:
    """Greedy unless `do_sample` is true or a temperature is positive. ValueError for an
    option that would be ignored."""
    left = dict(options)
    until = left.pop("until", ())
    until = (until,) if isinstance(until, str) else tuple(until or ())
    if not all(until):
        raise ValueError("generation_kwargs: until: expected text, got an empty string")
    new_tokens = left.pop("max_gen_toks", left.pop("max_new_tokens", NEW_TOKENS))
    sampling = {name: left.pop(name) for name in SAMPLING if name in left}
    sampling = {name: value for name, value in sampling.items() if value is not None}
    samples = left.pop("do_sample", sampling.get("temperature", 0.0) > 0)
    if left:
        raise ValueError(
            "generation_kwargs: expected until, max_gen_toks, do_sample, "
            f"{', '.join(SAMPLING)}, got {', '.join(map(str, left))}"
        )
    sampling = {"temperature": 1.0, **sampling} if samples else {"temperature": 0.0}
    return GenerationOptions(until, int(new_tokens), tuple(sorted(sampling.items())))


class Requests:
    """What the library asks, answered in text.

    Counts what it drops: tokens of a context beyond `model.length`, and first tokens
    that a model without prefix does not predict.
    """

    def __init__(
        self, model: LanguageModel, *, batch_tokens: int = 2048, seed: int = 0
    ) -> None:
        self.model = model
        self.score = log_likelihood.make_scorer(model, batch_tokens=batch_tokens)
        self.batch_tokens = batch_tokens
        self.key = jax.random.key(seed)
        self.clipped = self.unscored = 0

    def log_likelihoods(
        self, pairs: Sequence[tuple[str, str]]
    ) -> list[tuple[float, bool]]:
        """(log p(continuation | context), whether it is the greedy one) of each."""
        whole = [log_likelihood.encode_continuation(self.model, *p) for p in pairs]
        if self.model.prefix is None:
            self.unscored += sum(not context.strip() for context, _ in pairs)
        items = [log_likelihood.clip_context(x, self.model.length) for x in whole]
        pairs_of_items = zip(whole, items, strict=True)
        self.clipped += sum(len(a.context) > len(b.context) for a, b in pairs_of_items)
        found = self.score(items)
        return [(one.log_likelihood, bool(one.best_L.all())) for one in found]

    def rolling_log_likelihoods(self, texts: Sequence[str]) -> list[float]:
        """log p(text) of each, all tokens of a long one in windows."""
        windows: list[Continuation] = []
        owners: list[int] = []
        for number, text in enumerate(texts):
            ids = self.model.tokenizer.encode(text).tolist()
            prefix = self.model.prefix
            self.unscored += prefix is None and bool(ids)
            found = log_likelihood.rolling_windows(ids, self.model.length, prefix)
            windows += found
            owners += [number] * len(found)
        sums = [0.0] * len(texts)
        for owner, scores in zip(owners, self.score(windows), strict=True):
            sums[owner] += scores.log_likelihood
        return sums

    def completions(
        self, requests: Sequence[tuple[str, Mapping[str, Any]]]
    ) -> list[str]:
        """The continuation of each context, until one of its strings."""
        model, texts = self.model, [""] * len(requests)
        by_sampling: dict[Any, list[tuple[int, stop_strings.Prompt]]] = {}
        for number, (context, options) in enumerate(requests):
            until, new_tokens, sampling = parse_options(options)
            room = model.length - new_tokens
            if room < 1:
                raise ValueError(
                    f"max_gen_toks: expected less than {model.length}, the tokens that "
                    f"the model attends to, got {new_tokens}"
                )
            ids = (*model.starts, *model.tokenizer.encode(context).tolist())
            if not ids and model.prefix is not None:
                ids = (model.prefix,)
            self.clipped += len(ids) > room
            prompt = stop_strings.Prompt(ids[-room:], until, new_tokens)
            by_sampling.setdefault(sampling, []).append((number, prompt))
        for sampling, numbered in by_sampling.items():
            complete = self._completer(dict(sampling))
            numbers, prompts = zip(*numbered, strict=True)
            for place, text in complete(model.params, prompts, self.key):
                texts[numbers[place]] = text
        return texts

    def _completer(self, sampling: dict[str, Any]) -> stop_strings.Completer:
        dtype = jax.tree.leaves(self.model.params)[0].dtype
        return stop_strings.make_completer(
            decoding.decode_fns(self.model.net, decoding.decode_dtype(dtype)),
            self.model.tokenizer,
            length=self.model.length,
            choose=text_model.sampler_from_flags(**sampling),
            batch_size=max(1, self.batch_tokens // 256),
        )


def adapter(requests: Requests, chat: Chat | None = None) -> Any:
    """`requests` as a model of the library; with `chat`, one of messages."""
    base = importlib.import_module(f"{library().__name__}.api.model").LM

    class Adapter(base):
        def loglikelihood(self, instances: Sequence[Any]) -> list[tuple[float, bool]]:
            return requests.log_likelihoods([one.args for one in instances])

        def loglikelihood_rolling(self, instances: Sequence[Any]) -> list[float]:
            texts = [one.args[0] for one in instances]
            return requests.rolling_log_likelihoods(texts)

        def generate_until(self, instances: Sequence[Any]) -> list[str]:
            return requests.completions([one.args for one in instances])

        # In the key of a cache of requests, which is not used here.
        tokenizer_name = ""

        def apply_chat_template(
            self, chat_history: Any, add_generation_prompt: bool = True
        ) -> str:
            assert chat is not None
            return chat(chat_history, add_generation_prompt)

    return Adapter()


def evaluate(
    requests: Requests,
    tasks: Sequence[str],
    *,
    include_path: str | None = None,
    num_fewshot: int | None = None,
    limit: int | None = None,
    chat: Chat | None = None,
) -> dict[str, dict[str, Any]]:
    """The library's metrics of each task. include_path: a folder of more tasks in YAML.
    limit: examples of each task. chat: writes the questions and solved examples of a
    task as messages; the tokens before a text are then its own. ValueError for a task
    that there is none of."""
    # A process that is forked from JAX's threads may hang.
    os.environ["DISABLE_MULTIPROC"] = "1"
    evaluator = importlib.import_module(f"{library().__name__}.evaluator")
    manager = importlib.import_module("lm_eval.tasks").TaskManager(
        include_path=include_path
    )
    missing = [name for name in tasks if name not in manager.all_tasks]
    if missing or not tasks:
        where = f" or in {include_path}" if include_path else ""
        raise ValueError(
            f"--tasks: expected names of tasks of lm_eval{where}, got "
            f"{', '.join(missing) or 'none'}"
        )
    results = evaluator.simple_evaluate(
        model=adapter(requests, chat),
        apply_chat_template=chat is not None,
        tasks=list(tasks),
        task_manager=manager,
        num_fewshot=num_fewshot,
        limit=limit,
        bootstrap_iters=1000,
    )
    return dict(results["results"])
