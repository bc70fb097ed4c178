"""What is to be prepared, from what, where: decided once, before any process begins."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from transformer import checks, storage
from transformer.data.preparation import corpus, runs, shards
from transformer.data.preparation.corpus import Source, Unit
from transformer.data.preparation.runs import Recipe, Run, TokenizerFile
from transformer.data.preparation.shards import Task
from transformer.data.text import shard_index, tokenizers
from transformer.data.text.shard_index import Index, Shard

WORK = "work"


class Job(NamedTuple):
    """A preparation.

    folder: of the shards. work: of the runs, within it, removed at the end.
    intact: by name, shards of an earlier preparation that are as they should be.
    """

    recipe: Recipe
    tokenizer: TokenizerFile
    units: tuple[Unit, ...]
    folder: Path
    work: Path
    intact: Mapping[str, Shard]


class Result(NamedTuple):
    """Tokens that were encoded now, and the seconds that it took."""

    tokens: int
    seconds: float


def make(
    sources: Sequence[Source],
    tokenizer: TokenizerFile,
    folder: Path,
    *,
    seed: int,
    column: str,
    held_out: float,
    count: int | None,
) -> Job:
    """The job that prepares `sources`. count: shards of the train split; None: by the
    bytes of the corpus."""
    made = tokenizer.read(tokenizer.content)
    sizes = {"": 0, "train": 0, "validation": 0}
    for source in sources:
        sizes[source.split] += source.size
    total = sum(sizes.values())
    is_given = sizes[""] < total
    share = sizes["validation"] / total if is_given else held_out
    count = count or shards.count_shards(total)
    recipe = Recipe(
        made.hash,
        made.vocab_size,
        seed,
        column,
        None if is_given else held_out,
        count,
        shards.count_validation_shards(count, share),
    )
    units = tuple(corpus.units(sources))
    return Job(recipe, tokenizer, units, folder, folder / WORK, {})


def _difference(index: Index, job: Job) -> str | None:
    """What the index says that the job would not make, in words; None if nothing."""
    recipe = job.recipe
    counts = {split: len(found) for split, found in index.shards.items()}
    wanted: dict[str, tuple[Any, Any]] = {
        "a tokenizer with hash": (index.tokenizer["hash"], recipe.tokenizer),
        "shards": (
            (counts["train"], counts["validation"]),
            (recipe.shards, recipe.validation_shards),
        ),
    }
    for name, value in shards.facts(recipe).items():
        wanted[name] = index.recipe.get(name), value
    for name, (expected, got) in wanted.items():
        if expected != got:
            return f"{name} {expected}, got {got}"
    names = [source.name for unit in job.units for source in unit.sources]
    found = [name for name, _, _ in index.sources]
    if names != found:
        changed = sorted(set(names) ^ set(found))
        return f"the same {len(found)} files, got {len(names)}, others as {changed[0]}"
    return None


def compare(index: Index, job: Job) -> dict[str, Shard]:
    """By name, those shards of a finished preparation that have their checksums.
    ValueError where the job has another recipe or another corpus, whose content is
    read."""
    where = job.folder / shard_index.FILE
    difference = _difference(index, job)
    if difference is not None:
        raise ValueError(f"{where}: expected {difference}; another --folder takes it")
    for source, (_, _, sha256) in zip(
        [source for unit in job.units for source in unit.sources],
        index.sources,
        strict=True,
    ):
        with corpus.local_copy(source) as file:
            if corpus.digest(source, file) != sha256:
                raise ValueError(
                    f"{source.location}: expected the content with which {where} was "
                    "made, got another; another --folder takes it"
                )
    made = [shard for split in index.shards.values() for shard in split]
    return {s.name: s for s in made if shards.is_whole(s, job.folder)}


def remove_scratch(work: Path) -> None:
    """Remove what a killed process left."""
    if not checks.is_remote(work):
        for folder in work.glob(f"{storage.SCRATCH}*"):
            shutil.rmtree(folder, ignore_errors=True)


class ShardJob(NamedTuple):
    """A shard to be made, and the threshold of validation."""

    task: Task
    threshold: float


def encode(job: Job, unit: Unit) -> tuple[Run, int]:
    """The run of a unit, and its tokens if it was encoded now; 0 where it was there."""
    found = runs.read_record(job.work, unit, job.recipe)
    if found is not None:
        return found, 0
    made = runs.write(unit, job.recipe, job.tokenizer, job.work)
    return made, made.tokens


def missing_shards(job: Job, every: Iterable[Run]) -> list[ShardJob]:
    """The shards that are not intact. Errors as `shards.threshold`."""
    limit = shards.threshold(list(every), job.recipe)
    tasks = shards.tasks(job.recipe)
    return [ShardJob(task, limit) for task in tasks if task.name not in job.intact]


def write_shard(job: Job, every: Iterable[Run], wanted: ShardJob) -> Shard:
    """Write a shard from all runs."""
    ordered = sorted(every, key=lambda run: run.number)
    task, limit = wanted
    return shards.write(task, job.recipe, ordered, limit, job.work, job.folder)


def write_index(job: Job, every: Iterable[Run], new: Iterable[Shard]) -> None:
    """Write the tokenizer, then the index of intact and new shards: the folder is
    complete."""
    job.folder.mkdir(parents=True, exist_ok=True)
    storage.commit(job.folder / tokenizers.FILE, job.tokenizer.content)
    complete = sorted([*job.intact.values(), *new], key=lambda shard: shard.name)
    ordered = sorted(every, key=lambda run: run.number)
    content = shards.index(job.recipe, job.tokenizer, ordered, complete)
    storage.commit(job.folder / shard_index.FILE, shard_index.to_bytes(content))


def remove_work(job: Job) -> None:
    """Remove the runs."""
    if checks.is_remote(job.work):
        remote: Any = job.work
        remote.rmtree(missing_ok=True)
    else:
        shutil.rmtree(job.work)
