"""Every experiment is imported and traced; a golden curve of the first one."""

import importlib
import inspect
import re
import sys
from pathlib import Path
from typing import Any

import jax
import marian_folder
import numpy as np
import optax
import pretrained_folder
import pytest

import experiments
from experiments import language_model
from transformer import axes, checks, command, flags, main
from transformer.training import memory, optimizers, update
from transformer.training.experiment import Experiment

NAMES = sorted(
    file.stem
    for folder in experiments.__path__
    for file in Path(folder).glob("[a-z]*.py")
)


# The loss of `pretrained` is that of language_model.
PACKED = {"language_model", "moe", "pretrained", "translate"}


def needed_flags(name, folder):
    """Flags that an experiment cannot do without."""
    writers = {
        "pretrained": pretrained_folder.write,
        "pretrained_classifier": pretrained_folder.write_vit,
        "pretrained_clip": pretrained_folder.write_dual_encoder,
        "pretrained_mlm": pretrained_folder.write_masked_lm,
        "pretrained_speech": pretrained_folder.write_whisper,
        "pretrained_text_to_text": marian_folder.write,
    }
    if name not in writers:
        return {}
    source = writers[name](folder / "source")
    needed = {"init_from": source, "workdir": source}
    if name == "pretrained_classifier":
        needed["init_partial"] = True
    if name == "pretrained_speech":
        texts = [f"hen {number}" for number in range(40)]
        table = pretrained_folder.write_recordings(folder / "clips", texts)
        needed |= {"source": str(table), "language": "en"}
    return needed


def decay_matrices_alone(optimizer, params):
    """The optimizer multiplies no parameter but those of the rule: it is given shapes,
    which cannot be multiplied, in place of all others."""

    def update_of(params):
        rule = optimizers.is_decayed(params)
        shapes = jax.eval_shape(lambda: params)
        known = jax.tree.map(lambda r, p, s: p if r else s, rule, params, shapes)
        return optimizer.update(params, optimizer.init(params), known)[0]

    jax.eval_shape(update_of, params)


def test_decay_of_another_parameter_is_noticed():
    params = {"gain_D": np.ones(3), "w_in_DF": np.ones((3, 4))}
    decay_matrices_alone(optimizers.adamw(4), params)
    with pytest.raises(TypeError, match="ShapeDtypeStruct"):
        decay_matrices_alone(optax.adamw(0.1), params)


def test_the_package_lists_its_experiments(capsys, monkeypatch):
    """`python -m experiments`: a sentence for each, and no experiment by argument."""
    program = importlib.import_module("experiments.__main__")
    monkeypatch.setattr(sys, "argv", ["experiments"])
    assert program.main() == 0
    text = capsys.readouterr().out
    for name in NAMES:
        assert re.search(rf"^{name} +[A-Z].+[.?]$", text, re.M), name
    monkeypatch.setattr(sys, "argv", ["experiments", "mlm"])
    assert program.main() == 2
    assert "expected python -m experiments.NAME" in capsys.readouterr().err


@pytest.mark.parametrize("name", NAMES)
def test_every_experiment_traces(name, tmp_path):
    """With defaults but the seed; a parameter's name gives its shape and sharding."""
    make = importlib.import_module(f"experiments.{name}").experiment
    experiment = make(seed=3, **needed_flags(name, tmp_path))
    if experiment.generate is not None:
        parameters = inspect.signature(experiment.generate).parameters
        # A flag of both would be taken for the experiment's.
        assert not set(parameters) & set(inspect.signature(make).parameters)
    assert experiment.seed == 3
    mesh = axes.make_mesh()
    state = update.abstract_state(experiment, mesh)
    batch = experiment.batch(0, range(experiment.batch_size))
    segments = [int(a.max()) for key, a in batch.items() if "segment" in key]
    # One that packs belongs into `test_packed_documents.py`.
    assert name in PACKED or max(segments, default=1) <= 1
    after, step_metrics = jax.eval_shape(
        lambda *given: update.update(experiment, *given), state, batch
    )
    decay_matrices_alone(experiment.optimizer, state.params)
    weights = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    sizes = flags.derive(make, flags.defaults(make))
    assert weights > memory.least_weights(sizes)
    shapes = jax.tree.map(lambda a: (a.shape, a.dtype), (state, after))
    assert shapes[0] == shapes[1]
    assert step_metrics.loss.total.shape == ()
    for path, leaf in jax.tree_util.tree_flatten_with_path(state.params)[0]:
        dimensions = axes.dimensions(axes.leaf_name(path))
        assert min(1, leaf.ndim) <= len(dimensions) <= leaf.ndim
    for evaluation in experiment.evaluations.values():
        # No flag sets it: as in training, or such that 2 to 16 devices divide it.
        rows = evaluation.batch_size
        assert rows == experiment.batch_size or rows % 16 == 0
        held_out = evaluation.batch(0, range(evaluation.batch_size))
        jax.eval_shape(evaluation.loss, state.params, held_out, jax.random.key(0))


def generate_function(module):
    """What the file passes to `main.main(experiment, generate=...)`."""
    _, call = re.split(r"main\.main\(\s*experiment", inspect.getsource(module))
    passed = re.search(r"generate=([\w.]+)[,)]", call)
    return eval(passed[1], vars(module)) if passed else lambda: None


@pytest.mark.parametrize("name", NAMES)
def test_every_number_of_a_flag_has_a_range(name):
    """In the experiment, in `generate`, and in the flags of every experiment."""
    module = importlib.import_module(f"experiments.{name}")
    functions = [module.experiment, command.common_flags]
    functions += [generate_function(module)]
    for function in functions:
        for parameter in flags.parameters(function).values():
            kind = flags.kind_of(parameter)
            assert kind.type not in (int, float) or kind.range, parameter.name
            assert parameter.default in kind


GOLDEN = [
    *(5.5491, 5.534, 5.515, 5.4766, 5.4402, 5.3785, 5.3184, 5.1973, 5.1149, 4.9371),
    *(4.8009, 4.6282, 4.5353, 4.3686, 4.1648, 4.0568, 3.8867, 3.9046, 3.9606, 3.6814),
]


def tiny() -> Experiment:
    return language_model.experiment(
        depth=1,
        tokenizer="bytes",
        sequence_length=32,
        batch_size=8,
        steps=20,
        muon_learning_rate=0.01,
        adam_learning_rate=0.004,
        dtype="float32",
    )


def test_golden_curve():
    """Twenty losses in float32. Another recipe makes another curve: look at it, then
    write it here. The tolerance leaves room for other machines' sums."""
    experiment = tiny()
    state = jax.jit(lambda: update.init_state(experiment))()
    advance = jax.jit(lambda *given: update.update(experiment, *given))
    losses = []
    for step in range(experiment.steps):
        state, step_metrics = advance(state, experiment.batch(step, range(8)))
        losses.append(experiment.metrics(step_metrics.loss)["loss"])
    np.testing.assert_allclose(losses, GOLDEN, rtol=2e-3)


def another_value(parameter):
    """A value that the flag accepts and that is not its default; None if unknown."""
    kind, default = flags.kind_of(parameter), parameter.default
    if kind.choices:
        return next(choice for choice in kind.choices if choice != default)
    if kind.type is int and default is not None:
        return 2 * default if 2 * default in kind else default - 1
    if kind.type is float and default is not None:
        return default / 2 if default else None
    return None


def outside(kind):
    """Texts that a flag of this kind does not accept."""
    if kind.choices:
        return ["", kind.choices[0] + "x"]
    if kind.type is bool:
        return ["2", "maybe"]
    if kind.range is None:
        return []
    ends = kind.range.low - 1, 2 * kind.range.high + 1
    words = ["", "x", "\u0663", "\u00b2", "0x1", "1_0", "1 2", "nan", "inf", "-inf"]
    return [*words, *(f"{kind.type(end)}" for end in ends)]


@pytest.mark.parametrize("name", NAMES)
def test_a_value_out_of_range_is_refused_in_one_line(name, tmp_path):
    """Of every flag of every experiment, of `generate` and of the command; it names the
    flag, what is expected and what was given."""
    module = importlib.import_module(f"experiments.{name}")
    generate = generate_function(module)
    functions = [module.experiment, command.common_flags, generate]
    for function in functions:
        verb = "generate" if function is generate else "train"
        for flag, parameter in flags.parameters(function).items():
            kind = flags.kind_of(parameter)
            for text in outside(kind):
                argv = [verb, f"--workdir={tmp_path}", f"--{flag}={text}"]
                with pytest.raises(ValueError) as refused:
                    command.parse(argv, module.experiment, {"generate": generate})
                message = str(refused.value)
                assert message == f"--{flag}: expected {kind}, got {text!r}"


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_flag_that_shapes_parameters_is_fixed(name, tmp_path):
    """Any other can change in a run folder: shapes and fingerprint stay."""
    make = importlib.import_module(f"experiments.{name}").experiment
    mesh, needed = axes.make_mesh(), needed_flags(name, tmp_path)

    def shapes(**arguments):
        made = make(**{**needed, **arguments})
        params = update.abstract_state(made, mesh).params
        return made.fingerprint, jax.tree.map(lambda leaf: leaf.shape, params)

    expected = shapes()
    fixed = flags.flags_with_role(make, checks.FIXED)
    for flag, parameter in flags.parameters(make).items():
        value = another_value(parameter)
        if flag not in fixed and value is not None:
            assert shapes(**{flag: value}) == expected, flag


@pytest.mark.parametrize("name", NAMES)
def test_a_width_that_no_heads_fill_is_refused_before_data_are_read(name):
    """They, and a tokenizer made for them, may take long: here there are none."""
    make = importlib.import_module(f"experiments.{name}").experiment
    known = flags.parameters(make)
    if "width" not in known:
        pytest.skip("it has no width of its own")
    data = {flag: "/no/such" for flag in ("source", "text") if flag in known}
    with pytest.raises(ValueError, match="^--width: expected a multiple of (32|64),"):
        make(width=40, **data)


@pytest.mark.parametrize("name", NAMES)
def test_a_model_beyond_the_memory_is_refused_before_data_are_read(
    name, tmp_path, monkeypatch
):
    make = importlib.import_module(f"experiments.{name}").experiment
    known = flags.parameters(make)
    if not {"depth", "width"} <= set(known):
        pytest.skip("it has no depth and width of its own")
    data: Any = {flag: "/no/such" for flag in ("source", "text") if flag in known}
    monkeypatch.setattr(memory, "device_bytes", lambda: 2**34)
    with pytest.raises(ValueError, match="expected a model .* 16.0 GiB .* needs more"):
        main.run(make, tmp_path, depth=128, width=2**14, **data)
    assert not any(tmp_path.iterdir())
