"""Every flag says what it is."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

import experiments
from transformer import command, flags

FILES = sorted(Path(experiments.__path__[0]).glob("[a-z]*.py"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_flag_of_every_experiment_is_documented(file: Path) -> None:
    """Of the experiment, and of the verbs `generate` and `export`, whose names are
    others."""
    module = importlib.import_module(f"experiments.{file.stem}")
    functions = [module.experiment]
    _, call = re.split(r"main\.main\(\s*experiment", file.read_text())
    for verb in re.findall(r"(?:generate|export)=([\w.]+)", call):
        functions.append(eval(verb, vars(module)))
    for function in functions:
        docs = flags.arg_docs(function)
        missing = [n for n in flags.parameters(function) if not docs.get(n)]
        assert not missing, (function.__name__, missing)
    own, *verbs = (set(flags.parameters(function)) for function in functions)
    assert not any(own & names for names in verbs), "a flag of both is ambiguous"


def test_every_common_flag_is_documented() -> None:
    docs = flags.arg_docs(command.common_flags)
    assert all(docs.get(name) for name in flags.parameters(command.common_flags))
