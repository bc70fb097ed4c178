"""The remat policy is the one that recomputes least of those that fit."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest
import tiny_experiment
from commands import exit_status

from experiments import language_model, moe
from transformer import axes, main
from transformer.generation import text_model
from transformer.planning import chips, compilation, plan, theory, verb
from transformer.training import faults, loop, memory, remat, update

TINY: dict[str, Any] = {
    "depth": 1,
    "layers": "scanned",
    "tokenizer": "bytes",
    "sequence_length": 16,
    "batch_size": 8,
    "steps": 1,
    "dtype": "float32",
}
RUN = SimpleNamespace(
    experiment=language_model.experiment, generate=text_model.generate
)
# From the one that recomputes least.
POLICIES: dict[str, Any] = {
    "none": tiny_experiment.loss,
    "products": jax.checkpoint(
        tiny_experiment.loss, policy=jax.checkpoint_policies.dots_saveable
    ),
    "all": jax.checkpoint(tiny_experiment.loss),
}
ORDER = tuple(POLICIES)


def experiment(**how: Any) -> Any:
    made = tiny_experiment.experiment(width=32, batch_size=64, **how)
    rest: Any = {"remat_losses": POLICIES, "derived": {"remat": "auto"}}
    return made._replace(loss=POLICIES["none"], accumulate_to_fit=True, **rest)


@pytest.fixture(scope="module")
def mesh() -> Any:
    return axes.make_mesh(devices=jax.devices()[:1])


def needs(mesh: Any, policy: str, count: int = 1) -> float:
    """Bytes as counted."""
    one = remat.choose(experiment(), policy)._replace(accumulate=count)
    state = update.abstract_state(one, mesh)
    return memory.state_bytes(state) + remat.activation_bytes(one, state.params)


def fitted(mesh: Any, monkeypatch: Any, there: float | None) -> Any:
    monkeypatch.setattr(memory, "device_bytes", lambda: there)
    return remat.fit(experiment(), mesh)


def test_it_is_the_first_that_fits(mesh: Any, monkeypatch: Any) -> None:
    """One byte less, and it is the next."""
    sizes = [needs(mesh, name) for name in ORDER]
    assert sizes[0] > sizes[1] > sizes[2]
    for size, name, later in zip(sizes[:2], ORDER, ORDER[1:], strict=False):
        got = fitted(mesh, monkeypatch, size)
        assert remat.policy(got) == got.derived["remat"] == name
        assert remat.policy(fitted(mesh, monkeypatch, size - 1)) == later


def test_of_parts_of_a_batch_that_does_not_fit_whole(
    mesh: Any, monkeypatch: Any
) -> None:
    """The compiled step decides how many they are."""
    there = needs(mesh, "all") - 1
    assert needs(mesh, "all", 2) < there
    halves = [name for name in ORDER if needs(mesh, name, 2) <= there]
    got = fitted(mesh, monkeypatch, there)
    assert remat.policy(got) == halves[0] and got.accumulate == 1
    assert remat.policy(fitted(mesh, monkeypatch, 1)) == "all"


def test_without_a_known_memory_it_stays(mesh: Any, monkeypatch: Any) -> None:
    assert fitted(mesh, monkeypatch, None).derived["remat"] == "none"


def test_a_flag_or_another_loss_leaves_no_choice() -> None:
    """Of a mixture, whose loss is of two models, the policy is by depth."""
    assert remat.policies(language_model.experiment(**TINY)) == (
        *("none", "products", "weight_products", "attention", "all"),
    )
    given = language_model.experiment(**TINY, remat="products")
    assert remat.policies(given) == () and given.derived["remat"] == "products"
    assert remat.fit(given, axes.make_mesh()) is given and remat.after(given) is None
    assert remat.policies(moe.experiment(**TINY)) == ()


def test_the_gradient_is_the_same() -> None:
    made = experiment()
    params = jax.jit(lambda: update.init_state(made))().params
    batch, key = made.batch(0, range(64)), jax.random.key(0)

    def of(policy: str) -> Any:
        one = remat.choose(made, policy)
        return jax.jit(lambda params: update.loss_and_grad(one, params, batch, key))(
            params
        )

    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)  # noqa: E731
    jax.tree.map(close, of("none"), of("all"))


def test_it_is_printed_and_recorded(
    mesh: Any, tmp_path: Any, capsys: Any, monkeypatch: Any
) -> None:
    """The flag stays auto: on another machine the run goes on with another."""

    def train(made: Any, *given: Any, **how: Any) -> None:
        raise RuntimeError(f"with {remat.policy(made)}")

    monkeypatch.setattr(loop, "train", train)
    with pytest.raises(RuntimeError, match="with none"):
        main.run(language_model.experiment, tmp_path / "run", mesh=mesh, **TINY)
    (line,) = (x for x in capsys.readouterr().out.splitlines() if "sizes" in x)
    assert ", remat none, " in line
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["derived"]["remat"] == "none"
    assert record["flags"]["remat"] == "auto"


def test_what_does_not_fit_as_compiled_recomputes_more(
    mesh: Any, capsys: Any, monkeypatch: Any
) -> None:
    """And is then divided into microbatches. A line says so."""
    left = [faults.OutOfMemory("")] * 3

    def check(program: Any) -> None:
        if left:
            raise left.pop()

    monkeypatch.setattr(memory, "check_program", check)
    monkeypatch.setattr(faults, "compile_program", lambda *arguments: "program")
    nothing: Any = None
    made = experiment()
    assert loop.compile_update(made, mesh, nothing, nothing) == "program"
    lines = capsys.readouterr().out.splitlines()
    found = [line for line in lines if line.startswith("a device cannot")]
    assert [line.split(": ")[1] for line in found] == [
        *("remat products", "remat all", "2 microbatches"),
    ]


def test_a_plan_has_the_first_that_fits(capsys: Any, monkeypatch: Any) -> None:
    """As counted; and as compiled the one after those that the compiler refuses."""
    made, topology, sizes = experiment(), chips.parse("v5e:2x4"), {"data": 8}
    works = theory.works_of(made)
    counted = {
        name: plan.make(one, topology, sizes, compile_it=False, work=works(one))
        for name, one in ((n, remat.choose(made, n)) for n in ORDER)
    }

    def of(there: float) -> str:
        chip = topology.chip._replace(memory=there)
        found = plan.fit(made, topology._replace(chip=chip), sizes, works)
        assert found.accumulate == 1
        return remat.policy(found)

    assert [of(counted[name].memory.peak) for name in ORDER] == list(ORDER)
    assert of(1.0) == "all"
    assert counted["all"].costs.flops > counted["none"].costs.flops
    tried = []

    def make(one: Any, *given: Any, compile_it: bool, **how: Any) -> Any:
        if compile_it:
            tried.append(remat.policy(one))
            if len(tried) < 3:
                raise compilation.DoesNotFitError("too large")
        return counted[remat.policy(one)]

    monkeypatch.setattr(plan, "make", make)
    assert verb._plan(made, topology, sizes, works, True).fits
    assert tried == list(ORDER)
    assert capsys.readouterr().out.count("does not fit: ") == 2


def test_the_verb_says_which(capsys: Any, monkeypatch: Any) -> None:
    for name, value in compilation.ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    flags = [f"--{name}={value}" for name, value in TINY.items()]
    argv = ["plan", "--topology=v5e:2x4", "--method=count", *flags]
    assert exit_status(argv, monkeypatch, run=RUN) == 0
    assert "\nremat: none\n" in capsys.readouterr().out


def test_what_unrolled_layers_do_not_save_is_computed_again() -> None:
    """XLA finds what is there twice in one computation, and would compute it once."""

    def flops(policy: str) -> float:
        sizes: Any = {"width": 128, "sequence_length": 64, "layers": "unrolled"}
        made = language_model.experiment(**TINY | sizes, remat=policy)
        params = jax.eval_shape(made.init, jax.random.key(0))

        def total(params: Any, batch: Any) -> jax.Array:
            return made.loss(params, batch, jax.random.key(0)).total

        gradient = jax.jit(jax.grad(total)).lower(params, made.batch(0, range(2)))
        costs: Any = gradient.compile().cost_analysis()
        return costs["flops"]

    assert flops("all") > 1.1 * flops("none")
