"""Signatures as flags: types, defaults, recorded values and help."""

from functools import partial
from pathlib import Path
from typing import Literal

import pytest
import tiny_experiment
from absl import flags as absl_flags

from transformer import flags


def every_kind(
    *,
    whole: int = 1,
    number: float = 2.0,
    switch: bool = False,
    choice: Literal["left", "right"] = "left",
    folder: Path | None = None,
    limit: int | None = None,
) -> None:
    """Flags of every type.

    Args:
        whole: a number
            of things.
        choice: a side.
    """


def parse(*argv, recorded=None):
    """The keywords of `every_kind` on a command line."""
    values = absl_flags.FlagValues()
    flags.define(values, every_kind)
    assert flags.parse(values, ["name", *argv]) == ["name"]
    return flags.arguments(values, every_kind, recorded or {})


def test_flags_are_the_signature():
    assert parse() == {
        "whole": 1,
        "number": 2.0,
        "switch": False,
        "choice": "left",
        "folder": None,
        "limit": None,
    }
    values = parse("--whole=3", "--switch", "--choice=right", "--folder=a", "--limit=4")
    assert values["folder"] == Path("a")
    assert [values[k] for k in ("whole", "switch", "choice", "limit")] == [
        3,
        True,
        "right",
        4,
    ]
    assert parse("--noswitch", "--number=1e-3")["number"] == 1e-3


def test_recorded_values_are_the_defaults():
    assert parse(recorded={"whole": 9, "folder": "b"})["folder"] == Path("b")
    assert parse("--whole=3", recorded={"whole": 9})["whole"] == 3


def test_restore_inverts_plain():
    arguments = {**flags.defaults(every_kind), "folder": Path("a/b")}
    plain = flags.to_json(arguments)
    assert plain["folder"] == "a/b"
    assert flags.from_json(every_kind, plain) == arguments


def test_help_is_the_docstring():
    assert "--whole=int  (default 1)\n      a number of things." in (
        flags.help_text(every_kind)
    )


def test_docs_of_a_partial_are_those_of_its_function():
    assert flags.arg_docs(partial(every_kind, whole=2)) == flags.arg_docs(every_kind)


def test_type_without_flag_is_refused():
    def function(*, sizes: list[int] | None = None) -> None: ...

    with pytest.raises(TypeError, match="parameter sizes: expected int, float, bool"):
        flags.define(absl_flags.FlagValues(), function)


def test_name_is_the_file_or_the_function_in_a_notebook():
    assert flags.name_of(tiny_experiment.experiment) == "tiny_experiment"
    cell: dict = {}
    exec(compile("def blend(): pass", "ipykernel_1/2.py", "exec"), cell)
    assert flags.name_of(cell["blend"]) == "blend"
