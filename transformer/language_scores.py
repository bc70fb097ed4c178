"""Verbs of python -m transformer that score the language model of a folder: tasks of
lm-evaluation-harness, and minimal pairs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformer import checks, loading, storage

if TYPE_CHECKING:
    from transformer.evaluation import harness
    from transformer.evaluation.log_likelihood import LanguageModel


def load_language_model(folder: Path, *, checkpoint: str = "newest") -> LanguageModel:
    """The language model in a run folder or a folder of another library. ValueError
    where there is another model, or no tokenizer."""
    from transformer.evaluation.log_likelihood import LanguageModel
    from transformer.models import decoder

    opened: Any = loading.load(folder, checkpoint=checkpoint)
    net, tokenizer = opened.net, opened.tokenizer
    if not isinstance(net, decoder.Decoder):
        name = type(net).__name__
        raise ValueError(f"{folder}: expected a decoder of text, got {name}")
    if tokenizer is None:
        raise ValueError(f"{folder}: expected a tokenizer, got none")
    run = getattr(opened, "experiment", None)
    length = run.tokens_per_row if run is not None else opened.sizes.length
    starts, prefix = _special_tokens(folder, tokenizer)
    return LanguageModel(net, opened.params, tokenizer, length, starts, prefix)


def _special_tokens(folder: Path, tokenizer: Any) -> tuple[tuple[int, ...], int | None]:
    """(tokens that stand before each text, the one before a text without context)."""
    from transformer.interchange import folder as folder_
    from transformer.interchange import tokenizer as tokenizer_

    if tokenizer.kind != tokenizer_.KIND:
        # Our own packing never shows a model what stands before a document.
        return (), None
    begin = folder_.read_token_ids(folder).get("bos_token_id")
    return tokenizer.starts, tokenizer.end if begin is None else begin


def lm_eval(
    folder: Path,
    *,
    tasks: str = "",
    include_path: Path | None = None,
    num_fewshot: checks.CountOrZero | None = None,
    limit: checks.Count | None = None,
    chat: bool = False,
    batch_tokens: checks.Count = 2048,
    checkpoint: str = "newest",
    output: Path | None = None,
) -> dict[str, dict[str, Any]]:
    """Print and return the metrics of tasks of lm-evaluation-harness.

    Args:
        tasks: their names, as arc_easy,my_task.
        include_path: a folder with more tasks in YAML, of local files too.
        num_fewshot: solved examples before each; default of the task.
        limit: examples of each task; all if None.
        chat: questions and solved examples are messages, written by the chat template
            of the folder.
        batch_tokens: tokens of a batch.
        checkpoint: of a run: newest, best or a step's number.
        output: a JSON file of all metrics.
    """
    from transformer.evaluation import harness

    checks.output_file("--output", output)
    harness.library()
    if not tasks:
        raise ValueError("--tasks: expected names of tasks, got none")
    write_chat = chat_writer(folder) if chat else None
    model = load_language_model(folder, checkpoint=checkpoint)
    if chat:  # The template has the first token in its text.
        model = model._replace(starts=())
    requests = harness.Requests(model, batch_tokens=batch_tokens)
    results = harness.evaluate(
        requests,
        [name for name in tasks.split(",") if name],
        include_path=str(include_path) if include_path else None,
        num_fewshot=num_fewshot,
        limit=limit,
        chat=write_chat,
    )
    if output is not None:
        storage.commit(output, json.dumps(results, indent=2, default=str).encode())
    for line in result_lines(results):
        print(line)
    if requests.clipped:
        print(f"{requests.clipped} contexts cut to the last {model.length} tokens")
    if requests.unscored:
        print(
            f"{requests.unscored} texts without context scored from their second token"
        )
    return results


def chat_writer(folder: Path) -> harness.Chat:
    """A function that writes messages by the chat template of a folder. ValueError
    where there is none."""
    from transformer.interchange import chat_template

    template, special = chat_template.read_template(folder)

    def write(messages: Sequence[Mapping[str, str]], reply: bool) -> str:
        return chat_template.render(template, messages, special, reply=reply)

    return write


def result_lines(results: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """One line for each metric that is a number, with its standard error."""
    lines = []
    for task, metrics in results.items():
        for name, value in metrics.items():
            measure, _, kind = name.partition(",")
            is_number = kind and isinstance(value, float | int)
            if measure.endswith("_stderr") or not is_number:
                continue
            error = metrics.get(f"{measure}_stderr,{kind}")
            spread = f" ± {error:.4f}" if isinstance(error, float) else ""
            lines.append(f"{task}: {name} {value:.4f}{spread}")
    return lines


def minimal_pairs(
    folder: Path,
    *,
    pairs: str = "",
    batch_tokens: checks.Count = 2048,
    checkpoint: str = "newest",
) -> float:
    """Print how often the model finds the acceptable sentence of a pair more likely;
    return that fraction.

    Args:
        pairs: tables with columns sentence_good and sentence_bad, as a.jsonl,b.jsonl;
            UID names the phenomenon of a pair, which is the file's name by default.
        batch_tokens: tokens of a batch.
        checkpoint: of a run: newest, best or a step's number.
    """
    from transformer.evaluation import minimal_pairs as pairs_

    if not pairs:
        raise ValueError("--pairs: expected tables of pairs, got none")
    found = [one for name in pairs.split(",") for one in pairs_.read(Path(name))]
    model = load_language_model(folder, checkpoint=checkpoint)
    scores = pairs_.score(model, found, batch_tokens=batch_tokens)
    for name, (accuracy, count) in scores.by_group.items():
        print(f"{name}: {accuracy:.4f} of {count}")
    print(f"all: {scores.accuracy:.4f} of {len(found)}, {scores.ties} ties")
    if model.prefix is None:
        print("each sentence scored from its second token: the model has no prefix")
    return scores.accuracy
