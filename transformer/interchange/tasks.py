"""What one does with a pretrained model, by its kind: the verbs of
`experiments.pretrained` beside those of every experiment."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from transformer.interchange.architecture import Architecture


class Model(NamedTuple):
    """A folder of another library, without parameters: what its configuration says, and
    the net of that."""

    folder: Path
    architecture: Architecture
    sizes: Any
    net: Any


class Task(NamedTuple):
    """run(model, params, workdir, *, ...): its keywords are the flags of the verb.
    applies(model): whether a model of this kind offers it."""

    run: Callable[..., Any]
    applies: Callable[[Model], bool]


# By verb.
TASKS: Mapping[str, Task] = {}


def all_verbs() -> dict[str, Callable[..., Any]]:
    """All verbs, for the flags of a command line."""
    return {verb: task.run for verb, task in TASKS.items()}


def verbs_of(model: Model) -> dict[str, Callable[..., Any]]:
    """The verbs that `model` offers, each as f(params, workdir, *, ...)."""
    return {
        verb: partial(task.run, model)
        for verb, task in TASKS.items()
        if task.applies(model)
    }
