"""Flags drawn from the ranges in the signatures: out of range is one line, in range is
a run that trains, saves, restores and evaluates, or one line."""

import importlib
import re
import time
import warnings

import jax
import numpy as np
import pytest
import test_experiments
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from transformer import axes, command, flags
from transformer.training import evaluation, faults, loop

SETTINGS = {
    "deadline": None,
    "database": None,
    "suppress_health_check": list(HealthCheck),
}
# Values of which a run takes seconds; of all other numbers the least of their range.
SMALL = {
    "depth": [1, 2],
    "width": [8, 32, 48, 64, 100],
    "vocab_size": [2, 256, 257, 300],
    "sequence_length": [2, 3, 16, 33, 64],
    "image_size": [None, 1, 8, 14, 16],
    "patch": [1, 2, 4, 7, 8, 14],
    "gray_levels": [2, 3, 5],
    "batch_size": [1, 2, 7],
    "steps": [1, 2],
    "seed": [0, 1, 2**32 - 1],
}


# Sizes of these that fit together in every experiment.
USUAL = {"width": 64, "vocab_size": 300, "sequence_length": 64, "image_size": 16}
USUAL |= {"patch": 2, "gray_levels": 2, "batch_size": 2}


def in_range(name, parameter):
    """A strategy of values that the flag accepts; None for one that names data."""
    kind, default = flags.kind_of(parameter), parameter.default
    if name in SMALL:
        values = SMALL[name]
    elif re.search("depth$", name):
        values = SMALL["depth"]
    elif kind.choices:
        values = kind.choices
    elif kind.type is bool:
        values = [False, True]
    elif kind.range is None:
        return None
    elif kind.type is int:
        values = [kind.range.low + n for n in range(4)]
    else:
        low, high = kind.range.low, min(kind.range.high, 4.0)
        numbers = st.floats(low, high, exclude_min=kind.range.open_low)
        return st.one_of(st.just(default), numbers)
    return st.sampled_from([*values, *([None] if kind.optional else [])])


def sizes_of(make):
    """The flags of an experiment that say how long a run takes."""
    return [name for name in flags.parameters(make) if name in SMALL]


def flag_values(make):
    """A strategy of flags of an experiment, some of them left at their default, but
    none that says how long a run takes."""
    drawn = {
        name: strategy
        for name, parameter in flags.parameters(make).items()
        if (strategy := in_range(name, parameter)) is not None
    }
    sizes = {name: drawn.pop(name) for name in sizes_of(make)}
    return st.fixed_dictionaries(sizes, optional=drawn)


def train_and_restore(make, values, folder):
    """Whether the flags made a run, and not a refusal in one line."""
    mesh = axes.make_mesh(devices=jax.devices()[:1])
    try:
        with jax.set_mesh(mesh):
            value = command.make_experiment(
                make, {**flags.defaults(make), **values}, folder
            )
            value = value._replace(
                evaluations={
                    name: each._replace(batches=1)
                    for name, each in value.evaluations.items()
                }
            )
            loop.check(value, folder, mesh=mesh)
    except ValueError as refusal:
        assert "\n" not in str(refusal) and "expected" in str(refusal), values
        return False
    with jax.set_mesh(mesh):
        state = loop.train(value, folder, mesh=mesh)
        restored = loop.restore_run_state(value, folder, mesh)
        jax.tree.map(np.testing.assert_array_equal, state.params, restored.params)
        results = evaluation.evaluate(value, loop.params_of(restored), mesh)
    assert int(restored.step) == values["steps"]
    for numbers in results.values():
        assert np.isfinite(numbers["loss"]), values
    return True


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("name", test_experiments.NAMES)
def test_flags_in_range_make_a_run_or_are_refused(name, tmp_path_factory):
    make = importlib.import_module(f"experiments.{name}").experiment
    runs, folders = [], tmp_path_factory
    needed = test_experiments.needed_flags(name, folders.mktemp("needed"))
    needed.pop("workdir", None)

    usual = {n: USUAL.get(n, SMALL[n][0]) for n in sizes_of(make)}

    @settings(max_examples=3, **SETTINGS)
    @given(flag_values(make))
    @example(usual)
    def check(values):
        folder = tmp_path_factory.mktemp(name)
        try:
            runs.append(train_and_restore(make, {**values, **needed}, folder))
        except faults.NonFinite:
            runs.append(True)  # A learning rate far too high.

    check()
    assert runs[0]


@pytest.mark.parametrize("name", ["language_model", "classify_images", "winds"])
def test_flags_out_of_range_are_refused_at_once(name, tmp_path):
    """In one line that names the flag, within two seconds of CPU time. So are sizes in
    range that do not fit together, such as 64 heads of a width of 192."""
    module = importlib.import_module(f"experiments.{name}")
    generate = test_experiments.generate_function(module)
    kinds = {
        flag: flags.kind_of(parameter)
        for flag, parameter in flags.parameters(module.experiment).items()
    }
    numbers = sorted(flag for flag, kind in kinds.items() if kind.range)

    @settings(max_examples=60, **SETTINGS)
    @given(st.sampled_from(numbers), st.floats() | st.integers() | st.text())
    def check(flag, value):
        text = str(value)
        known = kinds[flag].type in (int, float) and is_number(text, kinds[flag])
        argv = [f"--workdir={tmp_path}", f"--{flag}={text}"]
        start = time.process_time()
        if known:
            try:
                command.parse(argv, module.experiment, {"generate": generate})
            except ValueError as refusal:
                assert re.fullmatch(r"--\w+: expected .*, got .*", str(refusal))
        else:
            with pytest.raises(ValueError) as refused:
                command.parse(argv, module.experiment, {"generate": generate})
            line = str(refused.value)
            assert line.startswith(f"--{flag}: expected {kinds[flag]}, got ")
        assert time.process_time() - start < 2

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check()


def is_number(text, kind):
    """Whether `text` is one of the numbers of `kind`, in ASCII digits."""
    pattern = r"[+-]?\d+" if kind.type is int else r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?"
    if not re.fullmatch(pattern, text, re.ASCII | re.I):
        return False
    return kind.type(text) in kind.range
