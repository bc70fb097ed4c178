"""Shards from the runs: each has the documents of one part of the order of all."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from transformer import storage
from transformer.data.preparation import runs
from transformer.data.preparation.runs import KEY, Recipe, Run, Segment
from transformer.data.readers import text_tables
from transformer.data.text import documents, shard_index
from transformer.data.text.shard_index import Index, Shard

SHARD_BYTES = 128 << 20


class Task(NamedTuple):
    """A shard to be made: number `number` of `count` of a split, from the documents
    between two of the edges of each run."""

    split: str
    number: int
    count: int
    first: int
    last: int

    @property
    def name(self) -> str:
        """Of its files."""
        return shard_index.shard_name(self.split, self.number, self.count)


def count_shards(size: int) -> int:
    """The shards of a corpus of so many bytes, one for each `SHARD_BYTES`."""
    return max(1, -(-size // SHARD_BYTES))


def count_validation_shards(shards: int, share: float) -> int:
    """The largest divisor of `shards` that is at most its `share`; 1 or more."""
    most = max(1, round(shards * share))
    return next(n for n in range(min(most, shards), 0, -1) if shards % n == 0)


def tasks(recipe: Recipe) -> list[Task]:
    """All shards of both splits."""
    counts = {"train": recipe.shards, "validation": recipe.validation_shards}
    return [
        Task(
            split,
            number,
            counts[split],
            number * recipe.shards // counts[split],
            (number + 1) * recipe.shards // counts[split],
        )
        for split in documents.SPLITS
        for number in range(counts[split])
    ]


def threshold(every: Sequence[Run], recipe: Recipe) -> float:
    """The `hash_fraction` below which a document is in validation. ValueError where a
    split would have no document."""
    statistics = [run.statistics for run in every]
    limit = runs.GIVEN_THRESHOLD
    count = sum(one.rows - one.empty for one in statistics)
    if recipe.held_out is not None and count:
        limit = text_tables.held_out_threshold(statistics, recipe.held_out)
    lowest = min((one.lowest for one in statistics), default=1.0)
    highest = max((one.highest for one in statistics), default=0.0)
    if not count or not lowest < limit <= highest:
        raise ValueError(
            "expected two different documents or more, for a train and a validation "
            f"split, got {count}; a file that is no table is one document"
        )
    return limit


def _segment(work: Path, run: Run, task: Task, limit: float) -> Segment:
    first, last = run.edges[task.first], run.edges[task.last]
    keys = np.zeros(0, KEY)
    if first < last:
        with runs.table_file(work, run.number).open("rb") as file:
            file.seek(first * KEY.itemsize)
            keys = np.frombuffer(file.read((last - first) * KEY.itemsize), KEY)
    is_held_out = keys["fraction"] < limit
    wanted = keys[is_held_out == (task.split == "validation")]
    return Segment(wanted, runs.token_file(work, run.number))


def shard_key(task: Task, recipe: Recipe, every: Sequence[Run], limit: float) -> str:
    """Changes with all that a shard depends on."""
    keys = [(run.key, run.files) for run in every]
    return storage.short_hash(repr((task, tuple(recipe), limit, keys)))


def write(
    task: Task,
    recipe: Recipe,
    every: Sequence[Run],
    limit: float,
    work: Path,
    folder: Path,
) -> Shard:
    """Write the files of a shard to `folder`, and its record to `work`, which has the
    runs `every`; where they are there already, as a record says, nothing."""
    record = work / f"{task.name}.json"
    key = shard_key(task, recipe, every, limit)
    kept = _read_record(record, key)
    if kept is not None and is_whole(kept, folder):
        return kept
    segments = [_segment(work, run, task, limit) for run in every]
    with storage.scratch_folder(work) as scratch:
        tokens, offsets = scratch / "tokens", scratch / "offsets"
        sizes = runs.assemble(segments, recipe.dtype, tokens)["size"]
        offsets.write_bytes(np.cumsum([0, *sizes], dtype="<i8").tobytes())
        digests = storage.sha256(tokens), storage.sha256(offsets)
        shard = Shard(task.name, len(sizes), int(sizes.sum()), digests)
        storage.commit_file(shard.file(folder, "tokens"), tokens)
        storage.commit_file(shard.file(folder, "offsets"), offsets)
    content = {"key": key, "shard": shard}
    storage.commit(record, json.dumps(content).encode())
    return shard


def _read_record(record: Path, key: str) -> Shard | None:
    try:
        content = json.loads(record.read_bytes())
        name, count, tokens, digests = content["shard"]
        shard = Shard(name, count, tokens, tuple(digests))
        return shard if content["key"] == key else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def is_whole(shard: Shard, folder: Path) -> bool:
    """Whether its files are there with their checksums."""
    try:
        got = [storage.sha256(shard.file(folder, k)) for k in shard_index.KINDS]
    except OSError:
        return False
    return tuple(got) == shard.sha256


def index(
    recipe: Recipe,
    file: runs.TokenizerFile,
    every: Sequence[Run],
    complete: Sequence[Shard],
) -> Index:
    """The index of finished shards."""
    tokenizer = file.read(file.content)
    shards = {
        split: tuple(s for s in complete if s.name.startswith(f"{split}-"))
        for split in documents.SPLITS
    }
    return Index(
        recipe.dtype.name,
        {
            "hash": tokenizer.hash,
            "kind": tokenizer.kind,
            "vocab_size": tokenizer.vocab_size,
            "end": tokenizer.end,
            "sha256": storage.sha256(file.content),
        },
        facts(recipe),
        shards,
        tuple(source for run in every for source in run.sources),
        sum(run.statistics.empty for run in every),
    )


def facts(recipe: Recipe) -> dict[str, object]:
    """The recipe as the index says it."""
    by_hash = "documents whose SHA-256, as a fraction of the largest, is below held_out"
    is_given = recipe.held_out is None
    return {
        "seed": recipe.seed,
        "text_column": recipe.column,
        "validation": "as given by the corpus" if is_given else by_hash,
        "held_out": recipe.held_out,
        "order": "BLAKE2b-128 of seed, row and file name",
    }
