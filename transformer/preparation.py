"""The verb `prepare` of python -m transformer: a corpus of many files as shards of
tokens, once, for any number of runs and hosts."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from transformer import checks, storage
from transformer.data.preparation import corpus, jobs, runs
from transformer.data.preparation.runs import TokenizerFile
from transformer.data.text import documents, shard_index, tokenizers

KINDS = ("bpe", "characters", "bytes")
HeldOut = Annotated[float, checks.Range(0, 0.5, open_low=True)]


def prepare(
    source: str,
    options: Sequence[str] = (),
    *,
    folder: str = "",
    tokenizer: str = "bpe",
    vocab_size: checks.VocabSize = 32768,
    shards: checks.Count | None = None,
    seed: checks.Seed = 0,
    text_column: str = "text",
    held_out: HeldOut = 0.01,
    workers: checks.Count | None = None,
    runner: str = "",
) -> shard_index.Index:
    """Encode all documents of `source` (a file, folder or pattern, local or gs://) and
    shuffle them into shards in `folder`, for `--text=folder` of a language model.

    options: of Beam, with a runner. The same command goes on after an interruption, and
    checks a folder that is complete. ValueError, in one line, for faults of the corpus,
    and where `folder` was made from another one or by other flags.

    Args:
        folder: of the shards, local or gs://.
        tokenizer: bpe, characters or bytes, made for the corpus; or the path of a
            tokenizer.json, or of a folder that has one (a run, or one of Hugging Face).
        vocab_size: tokens of a BPE that is trained here, on the first 200 M characters.
        shards: of the train split; by default one for 128 MiB of the corpus.
        seed: of the order of documents.
        text_column: of a table, its column of texts.
        held_out: the share of documents in validation, chosen by a hash of their text,
            unless the corpus has train and validation.
        workers: processes of this machine; by default one for each of its cores.
        runner: of Apache Beam (DirectRunner, DataflowRunner, FlinkRunner, SparkRunner),
            instead of processes of this machine; its options follow after --.
    """
    target = _folder(folder)
    if options and not runner:
        raise ValueError(f"expected --runner with options of Beam, got {options[0]!r}")
    _require_apart(source, target)
    sources = corpus.find_sources(source)
    text = corpus.as_text(source, sources, column=text_column, held_out=held_out)
    file = tokenizer_file(tokenizer, text, vocab_size)
    job = jobs.make(
        sources,
        file,
        target,
        seed=seed,
        column=text_column,
        held_out=held_out,
        count=shards,
    )
    if (target / shard_index.FILE).exists():
        intact = jobs.compare(shard_index.read(target), job)
        job = job._replace(intact=intact)
    every = job.recipe.shards + job.recipe.validation_shards
    if len(job.intact) == every and _has_tokenizer(job):
        print(f"{target}: complete; {every} shards have their checksums")
        return shard_index.read(target)
    _execute(job, workers, runner, options)
    return shard_index.read(target)


def _folder(folder: str) -> Path:
    if not folder:
        raise ValueError("--folder: expected the folder of the shards, got none")
    return checks.parse_path(folder)


def _require_apart(source: str, target: Path) -> None:
    """ValueError where the shards would be files of the corpus."""
    if f"{checks.parse_path(target).absolute()}/".startswith(
        f"{checks.parse_path(source).absolute()}/"
    ):
        raise ValueError(
            f"--folder: expected a folder outside of {source}, got {target}"
        )


def _has_tokenizer(job: jobs.Job) -> bool:
    file = job.folder / tokenizers.FILE
    return file.exists() and file.read_bytes() == job.tokenizer.content


def _way(
    workers: int | None, runner: str, options: Sequence[str]
) -> Callable[[jobs.Job], jobs.Result]:
    """The function that executes a job: by Beam's runner, or processes of this
    machine. ValueError, in one line, for a runner that is not there."""
    if runner:
        from transformer.data.preparation import beam_pipeline

        pipeline = beam_pipeline.empty_pipeline(runner, options)
        return partial(beam_pipeline.execute, pipeline=pipeline)
    from transformer.data.preparation import local

    return partial(local.execute, workers=workers)


def _execute(
    job: jobs.Job, workers: int | None, runner: str, options: Sequence[str]
) -> None:
    run = _way(workers, runner, options)  # A wrong runner leaves no folder behind.
    job.work.mkdir(parents=True, exist_ok=True)
    with storage.claim_or_refuse(job.work / "lock", f"{job.folder}"):
        jobs.remove_scratch(job.work)
        result = run(job)
    jobs.remove_work(job)
    print(summary(job, shard_index.read(job.folder), result))


def summary(job: jobs.Job, index: shard_index.Index, result: jobs.Result) -> str:
    """What was prepared, in two lines."""
    counts = ", ".join(
        f"{split} {index.documents(split):,} documents of {index.tokens(split):,} "
        f"tokens in {len(index.shards[split])} shards"
        for split in documents.SPLITS
    )
    empty = f"; {index.empty:,} documents have no text" if index.empty else ""
    rate = result.tokens / max(result.seconds, 1e-9)
    return (
        f"{job.folder}: {counts}{empty}\n"
        f"encoded {result.tokens:,} tokens in {result.seconds:.0f} s, {rate:,.0f} a "
        f"second; tokenizer {index.tokenizer['kind']} of "
        f"{index.tokenizer['vocab_size']:,} tokens, hash {index.tokenizer['hash']}"
    )


def tokenizer_file(
    name: str, text: documents.TextDataset, vocab_size: int
) -> TokenizerFile:
    """The tokenizer of a kind, made for a text, or of a file or folder."""
    if name in KINDS:
        made = tokenizers.for_text(name, text, vocab_size=vocab_size)
        return TokenizerFile(made.to_bytes(), runs.read_tokenizer)
    path = checks.parse_path(name)
    path = path / tokenizers.FILE if path.is_dir() else path
    if not path.is_file():
        raise ValueError(
            f"--tokenizer: expected {', '.join(KINDS)}, or a folder with "
            f"{tokenizers.FILE}, got none at {name}"
        )
    content = path.read_bytes()
    if _is_own(content):
        tokenizers.from_bytes(content, name=str(path))
        return TokenizerFile(content, runs.read_tokenizer)
    from transformer.interchange import tokenizer as interchange

    found: Any = interchange.read_tokenizer(path.parent)
    return TokenizerFile(found.to_bytes(), interchange.from_bytes)


def _is_own(content: bytes) -> bool:
    try:
        return "hash" in json.loads(content)
    except (ValueError, TypeError):
        return False
