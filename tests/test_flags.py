"""Signatures as flags: types, defaults, recorded values and help."""

from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import pytest
import tiny_experiment
from absl import flags as absl_flags

from transformer import flags
from transformer.checks import Range


def every_kind(
    *,
    whole: int = 1,
    number: float = 2.0,
    switch: bool = False,
    choice: Literal["left", "right"] = "left",
    folder: Path | None = None,
    limit: int | None = None,
    rate: Annotated[float, Range(0, 1, open_low=True)] = 0.5,
    layers: Annotated[int, Range(1, 8)] | None = 2,
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
        "rate": 0.5,
        "layers": 2,
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


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--layers=0", "--layers: expected a whole number in [1, 8], got '0'"),
        ("--layers=9", "--layers: expected a whole number in [1, 8], got '9'"),
        ("--layers=1.5", "--layers: expected a whole number in [1, 8], got '1.5'"),
        ("--layers=1e0", "--layers: expected a whole number in [1, 8], got '1e0'"),
        (
            "--layers=\u0663",
            "--layers: expected a whole number in [1, 8], got '\u0663'",
        ),
        (
            "--layers=\u00b2",
            "--layers: expected a whole number in [1, 8], got '\u00b2'",
        ),
        ("--layers=0x2", "--layers: expected a whole number in [1, 8], got '0x2'"),
        ("--layers=1_0", "--layers: expected a whole number in [1, 8], got '1_0'"),
        ("--layers=", "--layers: expected a whole number in [1, 8], got ''"),
        ("--rate=0", "--rate: expected a number in (0, 1], got '0'"),
        ("--rate=nan", "--rate: expected a number in (0, 1], got 'nan'"),
        ("--rate=inf", "--rate: expected a number in (0, 1], got 'inf'"),
        ("--choice=up", "--choice: expected one of left, right, got 'up'"),
        ("--switch=2", "--switch: expected true or false, got '2'"),
        ("--layerz=2", "--layerz: there is no such flag; did you mean --layers?"),
        ("--foo=2", "--foo: there is no such flag; --help lists them"),
    ],
)
def test_wrong_value_is_refused_in_one_line(argument, message):
    with pytest.raises(ValueError) as refused:
        parse(argument)
    assert str(refused.value) == message


def test_ends_of_a_range_are_taken():
    values = parse("--layers=+8", "--rate=1e-300")
    assert (values["layers"], values["rate"]) == (8, 1e-300)


def test_values_of_a_record_are_checked_as_those_of_a_command_line():
    flags.check_values(every_kind, {"layers": None, "rate": 1, "unknown": {}})
    wrong = {"layers": "2", "rate": None, "whole": True, "choice": [], "folder": 1}
    with pytest.raises(ValueError) as refused:
        flags.check_values(every_kind, wrong)
    message = str(refused.value)
    assert "\n" not in message
    for name, value in wrong.items():
        assert f"--{name}: expected " in message and f"got {value!r}" in message


def test_help_is_the_docstring():
    assert "--whole=int  (default 1)\n      a number of things." in (
        flags.help_text(every_kind)
    )
    assert "--rate=float in (0, 1]  (default 0.5)\n" in flags.help_text(every_kind)


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
