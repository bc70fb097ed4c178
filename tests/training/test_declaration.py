"""Experiments as functions: their flags, slots, defaults, names and documentation."""

from __future__ import annotations

import pydoc
import re
from functools import partial
from typing import Any, NamedTuple

import pytest
import tiny_experiment

from transformer import flags
from transformer.training.declaration import declare, derive, fill
from transformer.training.experiment import Experiment, Run


def sgd(steps: int, *, learning_rate: float = 0.1, momentum: float = 0.9) -> Any:
    """Gradient descent.

    Args:
        learning_rate: step size.
        momentum: decay rate of the mean gradient.
    """
    return "sgd", steps, learning_rate, momentum


def lion(steps: int, *, learning_rate: float = 1e-4, b1: float = 0.95) -> Any:
    """Lion.

    Args:
        learning_rate: size of every change.
        b1: decay rate.
    """
    return "lion", steps, learning_rate, b1


def linear(depth: int) -> str:
    """A model."""
    return f"linear {depth}"


def deep(depth: int) -> str:
    """Another model."""
    return f"deep {depth}"


@declare(steps=5, batch_size=4, learning_rate=0.2)
def base(run: Run, model: Any = linear, optimizer: Any = sgd, *, depth: int = 2) -> Any:
    """A line fitted to points.

    Args:
        depth: layers.
    """
    return experiment(run, model(depth), optimizer(run.steps))


def experiment(run: Run, net: Any, optimizer: Any) -> Experiment:
    """An experiment that holds what it was made from."""
    nothing: Any = None
    return Experiment(
        fingerprint="line",
        init=nothing,
        loss=nothing,
        batch=nothing,
        batch_size=run.batch_size,
        optimizer=optimizer,
        steps=run.steps,
        metrics=nothing,
        seed=run.seed,
        net=net,
        data=run,
    )


@derive(base, steps=7, momentum=0.5)
def derived(*, experts: int = 3, **rest: Any) -> Experiment:
    """A mixture of lines.

    Args:
        experts: lines.
    """
    return base(**rest)._replace(fingerprint=f"{experts} lines")


HELP = """\
  --depth=int  (default 2)
      layers.
  --steps=int in [1, 2147483647]  (default 5)
      training steps.
  --batch_size=int in [1, 2147483647]  (default 4)
      rows of a training step.
  --dtype=auto|float32|bfloat16  (default auto)
      compute dtype; auto is bfloat16 where the machine multiplies it fast.
  --seed=int in [0, 4294967295]  (default 0)
      of the parameters, the order of the rows, the noise and the samples.
  --workdir=path  (default None)
      run folder, default runs/NAME; its tokenizer is used if it has one.
  --init_from=path  (default None)
      a run folder, whose parameters and tokenizer a new run starts from.
  --init_partial=bool  (default False)
      accept parameters that are new, left over or of another shape.
  --freeze=str  (default )
      regular expression of the paths of parameters that are not trained.
  --ema_decay=float in [0, 1)  (default 0.0, fixed)
      per step, of a moving average of the parameters; 0 keeps none.
  --state_dtype=float32|bfloat16  (default float32, fixed)
      of the optimizer's moments; bfloat16 rounds them stochastically.
  --gradient_dtype=float32|bfloat16  (default float32)
      in which gradients are added over devices and microbatches.
  --learning_rate=float  (default 0.2)
      step size.
  --momentum=float  (default 0.9)
      decay rate of the mean gradient."""


def test_flags_are_those_of_experiment_run_and_optimizer() -> None:
    """In this order, with the text of each."""
    assert flags.help_text(base) == HELP


def test_help_of_python_lists_slots_and_flags() -> None:
    text = pydoc.plain(pydoc.render_doc(base))
    assert re.search(r"base\(\s*model:", text) and "optimizer:" in text
    assert "    A line fitted to points.\n" in text
    words = " ".join(text.split())
    for name, explanation in flags.arg_docs(base).items():
        assert f"{name}: {explanation}" in words
    assert flags.arg_docs(base).keys() == flags.parameters(base).keys()


def test_defaults_are_those_declared() -> None:
    made = base()
    assert made.data == Run(steps=5, batch_size=4)
    assert made.optimizer == ("sgd", 5, 0.2, 0.9)
    assert made.net == "linear 2"


def test_each_flag_reaches_its_function() -> None:
    made = base(depth=3, steps=6, seed=8, learning_rate=0.3, momentum=0.1)
    assert made.data == Run(steps=6, batch_size=4, seed=8)
    assert made.optimizer == ("sgd", 6, 0.3, 0.1)
    assert made.net == "linear 3"


def test_slots_are_filled_by_position_or_name() -> None:
    assert base(deep).net == "deep 2"
    assert base(deep, lion).optimizer == ("lion", 5, 0.2, 0.95)
    assert base(optimizer=lion, b1=0.5, steps=9).optimizer == ("lion", 9, 0.2, 0.5)
    assert base(optimizer=partial(sgd, momentum=0.7)).optimizer == ("sgd", 5, 0.2, 0.7)
    with pytest.raises(TypeError, match="at most 2 positional arguments .*, got 3"):
        base(deep, lion, 3)


def test_another_optimizer_brings_its_flags() -> None:
    changed = fill(base, optimizer=lion)
    text = flags.help_text(changed)
    assert "--b1=float  (default 0.95)\n      decay rate." in text
    assert "--learning_rate=float  (default 0.2)\n      size of every change." in text
    assert "momentum" not in text
    assert changed().optimizer == ("lion", 5, 0.2, 0.95)
    both = fill(changed, model=deep)(b1=0.1)
    assert (both.net, both.optimizer) == ("deep 2", ("lion", 5, 0.2, 0.1))
    assert flags.help_text(base) == HELP, "the experiment itself is unchanged"


def test_derived_experiment_inherits_flags_and_states_the_difference() -> None:
    lines = flags.help_text(derived).splitlines()
    inherited = HELP.replace("(default 5)", "(default 7)")
    inherited = inherited.replace("(default 0.9)", "(default 0.5)")
    assert lines[:2] == ["  --experts=int  (default 3)", "      lines."]
    assert lines[2:] == inherited.splitlines()
    made = derived(experts=8, depth=1, learning_rate=0.4)
    assert made.fingerprint == "8 lines" and made.net == "linear 1"
    assert made.optimizer == ("sgd", 7, 0.4, 0.5)
    assert made.data == Run(steps=7, batch_size=4)


def test_derived_experiment_redefines_a_flag() -> None:
    @derive(base)
    def deeper(*, depth: int = 10, **rest: Any) -> Experiment:
        return base(depth=2 * depth, **rest)

    assert deeper().net == "linear 20" and deeper(depth=1).net == "linear 2"
    assert flags.defaults(deeper)["depth"] == 10


def test_derived_experiment_has_the_slots() -> None:
    """Filled by `derive`, by `fill` or in the call; flags follow."""

    @derive(base, optimizer=lion, b1=0.6)
    def other(**rest: Any) -> Experiment:
        return base(**rest)

    assert other().optimizer == ("lion", 5, 0.2, 0.6)
    assert flags.defaults(other)["b1"] == 0.6 and "momentum" not in flags.defaults(
        other
    )
    for changed in (fill(derived, optimizer=lion), partial(derived, optimizer=lion)):
        made = changed(experts=2, b1=0.7)
        assert made.fingerprint == "2 lines"
        assert made.optimizer == ("lion", 7, 0.2, 0.7)
    assert "b1" in flags.defaults(fill(derived, optimizer=lion))


KNOWN = (
    "expected parameters among batch_size, depth, dtype, ema_decay, freeze, "
    "gradient_dtype, init_from, init_partial, learning_rate, model, momentum, "
    "optimizer, seed, state_dtype, steps, workdir; got dpeth"
)
UNKNOWN = {
    "flag": (lambda: base(dpeth=3), KNOWN),
    "inherited flag": (lambda: derived(dpeth=3), "workdir; got dpeth"),
    "slot": (lambda: fill(base, attention=1), "among model, optimizer; got attention"),
    "declared default": (
        lambda: declare(width=3, steps=1, batch_size=1)(base_of()),
        "among batch_size, .*; got width",
    ),
    "declared default of an own flag": (
        lambda: declare(depth=3, steps=1, batch_size=1)(base_of()),
        "among batch_size, .*; got depth",
    ),
    "derived default": (lambda: derive(base, width=3)(derived_of()), "got width"),
    "derived default of an own flag": (
        lambda: derive(base, experts=3)(derived_of()),
        "got experts",
    ),
}


def base_of() -> Any:
    """An experiment that is not declared."""

    def function(run: Run, *, depth: int = 2) -> Experiment:
        return experiment(run, depth, None)

    return function


def derived_of() -> Any:
    """An experiment that is not derived."""

    def function(*, experts: int = 2, **rest: Any) -> Experiment:
        return base(**rest)

    return function


@pytest.mark.parametrize("case", UNKNOWN)
def test_unknown_names_are_refused_with_the_known_ones(case: str) -> None:
    make, message = UNKNOWN[case]
    with pytest.raises(TypeError, match=message):
        make()


def test_flag_without_default_is_refused() -> None:
    with pytest.raises(TypeError, match="a default of every flag, got none of steps"):
        declare(batch_size=1)(base_of())


def test_flag_of_two_origins_is_refused() -> None:
    def decay(steps: int, *, depth: int = 3) -> None: ...

    def function(run: Run, optimizer: Any = decay, *, depth: int = 2) -> Any: ...

    with pytest.raises(TypeError, match="different names .*; got depth twice"):
        declare(steps=1, batch_size=1)(function)


def test_experiment_is_named_by_its_file() -> None:
    for made in (base(), derived(), fill(base, model=deep)()):
        assert made.name == "test_declaration"
    assert tiny_experiment.experiment().name == "tiny_experiment"


def test_compute_dtype_resolves_auto(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("transformer.cpu_tuning.compute_dtype", lambda: "bfloat16")
    assert base().data.compute_dtype == "bfloat16"
    assert base(dtype="float32").data.compute_dtype == "float32"


class Sizes(NamedTuple):
    """Of a line whose sizes follow from its depth."""

    steps: int
    learning_rate: float
    width: int
    area: int


def sizes_of(
    depth: int,
    *,
    steps: int | None = None,
    learning_rate: float | None = None,
    width: int | None = None,
) -> Sizes:
    """Sizes.

    Args:
        steps: ten a layer.
        width: three a layer.
    """
    width = width or 3 * depth
    return Sizes(steps or 10 * depth, learning_rate or 1 / width, width, width**2)


@declare(scale=sizes_of, earlier=lambda recorded: {"width": 5, "up": 1}, batch_size=4)
def scaled(
    run: Run,
    model: Any = linear,
    optimizer: Any = sgd,
    *,
    depth: int = 2,
    width: int | None = None,
) -> Any:
    """A line of a depth."""
    made = experiment(run, width, optimizer(run.steps))
    return made._replace(derived={"kind": "line"})


def test_flags_that_are_not_given_are_derived() -> None:
    """Those of the experiment, of `Run` and of the optimizer alike."""
    made = scaled()
    assert (made.net, made.data.steps) == (6, 20)
    assert made.optimizer == ("sgd", 20, 1 / 6, 0.9)
    assert made.derived == {**sizes_of(2)._asdict(), "kind": "line"}
    given = scaled(depth=3, width=4, learning_rate=0.5)
    assert (given.net, given.data.steps, given.derived["area"]) == (4, 30, 16)
    assert given.optimizer == ("sgd", 30, 0.5, 0.9)
    assert scaled(steps=7).optimizer == ("sgd", 7, 1 / 6, 0.9)


def test_defaults_and_texts_of_derived_flags() -> None:
    text = flags.help_text(scaled)
    assert (
        "--steps=int in [1, 2147483647]  (default derived)\n      ten a layer." in text
    )
    assert "--width=int  (default derived)\n      three a layer." in text
    assert "--learning_rate=float  (default derived)\n      step size." in text
    assert flags.defaults(scaled)["steps"] is None
    flags.check_values(scaled, {"steps": None, "learning_rate": None})


def test_what_a_slot_states_is_not_derived() -> None:
    tuned = scaled(optimizer=partial(sgd, learning_rate=0.7))
    assert tuned.optimizer == ("sgd", 20, 0.7, 0.9)
    constant = scaled(optimizer=lambda steps, *, power=2: (steps, power))
    assert constant.optimizer == (20, 2)
    assert "learning_rate" not in constant.derived


def test_a_size_that_a_model_states_is_refused() -> None:
    """It would be called with another."""
    with pytest.raises(TypeError, match="expected depth as flags, got .* slot model"):
        scaled(partial(linear, depth=9))


def test_a_size_that_the_model_refuses_is_refused_before_data_are_read() -> None:
    """Only a flag by its name, and not what stands in for a size of the data."""

    def even(*, depth: int, grid: tuple[int, ...], classes: int) -> str:
        if depth % 2 or len(grid) != 2:
            raise ValueError(f"depth: expected an even number, got {depth}")
        if classes < 2:
            raise ValueError(f"classes: expected 2 or more, got {classes}")
        return f"{depth} {classes}"

    @declare(steps=5, batch_size=4)
    def made(run: Run, model: Any = even, *, depth: int = 2) -> Any:
        """Classes."""
        read.append(depth)
        return experiment(run, model(depth=depth, grid=(3, 3), classes=2), None)

    read: list[int] = []
    assert made().net == "2 2"
    with pytest.raises(ValueError, match="^--depth: expected an even number, got 3$"):
        made(depth=3)
    assert made(lambda **sizes: "any", depth=3).net == "any"
    assert read == [2, 3]


def test_derived_experiments_inherit_what_is_derived() -> None:
    @derive(scaled, steps=9)
    def child(*, depth: int = 4, **rest: Any) -> Experiment:
        """A line of its own depth."""
        return scaled(depth=depth, **rest)

    made = child()
    assert (made.net, made.data.steps) == (12, 9)
    assert flags.derive(child, {"depth": 4, "width": None})["width"] == 12
    assert flags.complete(child, {"depth": 4}) == {"width": 5, "depth": 4}


def test_a_record_keeps_what_it_names() -> None:
    assert flags.complete(scaled, {"depth": 1, "width": 2}) == {"depth": 1, "width": 2}
    assert flags.complete(scaled, {"depth": 1}) == {"depth": 1, "width": 5}
    assert flags.complete(scaled, {}) == {}
    assert flags.complete(base, {"depth": 1}) == {"depth": 1}
    assert flags.derive(base, {"depth": None}) == {"depth": None}
