"""Depth as the dial of `language_model`: flags, records, old records, microbatches."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import commands
import jax
import numpy as np
import pytest
import short_training

from experiments import language_model, moe
from transformer import command, flags, main
from transformer.generation import text_model
from transformer.training import flops, optimizers, update

pytestmark = pytest.mark.usefixtures("one_device")

RUN = SimpleNamespace(
    experiment=language_model.experiment, generate=text_model.generate
)
TINY: dict[str, Any] = {
    "depth": 1,
    "tokenizer": "bytes",
    "sequence_length": 32,
    "batch_size": 8,
    "steps": 2,
    "dtype": "float32",
}
# Flags of runs from before they were derived from the depth.
BEFORE = {
    "sequence_length": 256,
    "steps": 900,
    "batch_size": 8,
    "muon_learning_rate": 0.02,
    "adam_learning_rate": 0.01,
}
# Those that there were not: as they are on a record of that time.
SINCE = {"width": 192, "heads": 3, "kv_heads": 3, "chunks": 2}


def parsed(*argv: str, make: Any = language_model.experiment) -> dict[str, Any]:
    return command.parse(list(argv), make, {}).experiment_flags


@pytest.mark.parametrize("argv", [[], ["--depth=3"]])
def test_flags_of_the_default_depth_are_those_of_before(
    argv: list[str], tmp_path: Path
) -> None:
    values = parsed(*argv, f"--workdir={tmp_path}")
    expected = {**BEFORE, **SINCE, "accumulate": None, "layers": "auto"}
    assert {name: values[name] for name in expected} == expected


def test_moe_has_the_flags_of_before(tmp_path: Path) -> None:
    values = parsed(f"--workdir={tmp_path}", make=moe.experiment)
    of_moe = {"steps": 600, "batch_size": 16, "width": 128, "heads": 2, "kv_heads": 2}
    expected = {**BEFORE, **SINCE, **of_moe}
    assert {name: values[name] for name in expected} == expected


def test_one_flag_reaches_all_sizes(tmp_path: Path) -> None:
    """And a flag of one size overrides it, and what follows from it."""
    argv = ["--depth=32", f"--workdir={tmp_path}", "--vocab_size=32768"]
    deep = parsed(*argv)
    expected = {
        **{"width": 2048, "heads": 16, "kv_heads": 8, "sequence_length": 2048},
        **{"batch_size": 256, "steps": 56_320, "chunks": 4},
        **{"muon_learning_rate": 0.02, "adam_learning_rate": 0.00306},
    }
    assert {name: deep[name] for name in expected} == expected
    given = parsed(*argv, "--batch_size=512", "--kv_heads=16")
    assert (given["batch_size"], given["kv_heads"]) == (512, 16)
    assert given["steps"] == pytest.approx(56_320 / 2 * 12 / 11, rel=1e-3)


def test_help_says_what_is_derived() -> None:
    text = flags.help_text(language_model.experiment)
    assert "--width=int in [8, 16384]  (default derived, fixed)" in text
    assert "--steps=int in [1, 2147483647]  (default derived)" in text
    assert "arXiv 2203.15556" in text


def old_folder(folder: Path, **values: Any) -> Path:
    """The folder of a run whose record names these flags only."""
    leg = {"from_step": 0, "to_step": 9, "decay_step": None, "data": "", "flags": {}}
    record = {"layout": 3, "experiment": "language_model", "fingerprint": ""}
    content = {**record, "flags": values, "legs": [leg]}
    folder.mkdir(exist_ok=True)
    (folder / "run.json").write_text(json.dumps(content))
    return folder


def test_a_record_without_the_flags_has_the_net_of_its_time(tmp_path: Path) -> None:
    """Of 16 blocks: unrolled, with keys and values in each head."""
    folder = old_folder(tmp_path / "old", depth=16, steps=9)
    values = parsed(f"--workdir={folder}")
    expected = {
        **{"width": 1024, "heads": 16, "kv_heads": 16, "steps": 9},
        **{"layers": "unrolled", "remat": "none", "chunks": 2},
    }
    assert {name: values[name] for name in expected} == expected
    inherited = parsed(f"--workdir={tmp_path / 'new'}", f"--init_from={folder}")
    assert {n: inherited[n] for n in ("kv_heads", "layers")} == {
        "kv_heads": 16,
        "layers": "unrolled",
    }
    with pytest.raises(ValueError, match="--layers: expected unrolled, which the"):
        parsed(f"--workdir={folder}", "--layers=scanned")
    with pytest.raises(ValueError, match="--kv_heads: expected 16, which the"):
        parsed(f"--workdir={folder}", "--kv_heads=8")


def test_a_record_with_automatic_layers_keeps_them(tmp_path: Path) -> None:
    folder = old_folder(tmp_path / "old", depth=16, layers="auto", remat="auto")
    assert parsed(f"--workdir={folder}")["layers"] == "auto"


def test_sizes_are_printed_and_recorded(
    tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder, without the newer flags, is that of an old run: it is resumed, and
    goes on to the same bits."""
    new, old, text = tmp_path / "new", tmp_path / "old", tmp_path / "text.txt"
    text.write_text("".join(f"{i} is less than {i + 1}.\n\n" for i in range(400)))
    argv = [f"--{name}={value}" for name, value in {**TINY, "text": text}.items()]
    assert commands.exit_status([*argv, f"--workdir={new}"], monkeypatch, run=RUN) == 0
    (line,) = (n for n in capsys.readouterr().out.splitlines() if "sizes:" in n)
    assert "width 64, heads 1" in line and "steps 2" in line
    assert "layers unrolled, remat none, attention row-blocked" in line
    record = json.loads((new / "run.json").read_text())
    assert record["flags"]["width"] == record["derived"]["width"] == 64
    assert record["flags"]["muon_learning_rate"] == 0.02
    assert record["derived"]["tokens"] == 2 * 8 * 32
    state = main.run(language_model.experiment, new)

    old.mkdir()
    for file in new.rglob("*"):
        if file.is_file():
            copy = old / file.relative_to(new)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(file.read_bytes())
    del record["derived"]
    leg = record["legs"][0]
    for name in (*SINCE, "accumulate", "layers", "remat"):
        del record["flags"][name], leg["flags"][name]
    (old / "run.json").write_text(json.dumps(record))
    jax.tree.map(
        np.testing.assert_array_equal, main.run(language_model.experiment, old), state
    )
    assert json.loads((old / "run.json").read_text()) == record


def test_accumulated_gradients_are_those_of_the_whole_batch() -> None:
    made = [language_model.experiment(**TINY, accumulate=n) for n in (1, 4)]
    assert [one.accumulate for one in made] == [1, 4]
    assert not any(one.accumulate_to_fit for one in made)
    params = jax.device_get(jax.jit(made[0].init)(jax.random.key(0)))
    params = jax.tree.map(lambda a: a + 0.02, params)  # Maps begin at zero.
    batch, key = made[0].batch(0, range(8)), jax.random.key(1)
    (loss, gradient), (summed, sums) = (
        jax.jit(lambda p, one=one: update.loss_and_grad(one, p, batch, key))(params)
        for one in made
    )
    np.testing.assert_allclose(summed.total, loss.total, rtol=1e-5)
    assert summed.weight == loss.weight
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4),
        sums,
        gradient,
    )


def test_a_net_without_accumulation_begins_with_one_microbatch() -> None:
    made = language_model.experiment(**TINY)
    assert made.accumulate == 1 and made.accumulate_to_fit


def products(program: Any) -> list[Any]:
    """Shape and dtype of the result of each product in a jaxpr."""
    found = []
    for equation in program.eqns:
        if equation.primitive.name == "dot_general":
            found.append(equation.outvars[0].aval)
        for inner in flops.programs_in(equation.params):
            found += products(inner)
    return found


def test_gradients_of_weights_are_products_of_the_stated_dtype() -> None:
    """What devices add up, also of scanned layers that are computed again, and of the
    unembedding; all else is as it was."""
    how: Any = {**TINY, "dtype": "bfloat16", "layers": "scanned", "remat": "all"}

    def dtypes(**more: Any) -> tuple[set[str], list[Any]]:
        made = language_model.experiment(**how, **more)
        params = jax.eval_shape(made.init, jax.random.key(0))
        batch, key = made.batch(0, range(8)), jax.random.key(0)
        program = jax.make_jaxpr(
            lambda params: update.loss_and_grad(made, params, batch, key)[1]
        )(params)
        layer = params["stack"]["layers"]["block"]["mlp"]
        shapes = {leaf.shape[1:] for leaf in jax.tree.leaves(layer) if leaf.ndim == 3}
        shapes |= {params["unembedding_VD"].shape}
        found = products(program.jaxpr)
        weights = [a for a in found if {a.shape, a.shape[::-1]} & shapes]
        assert len(weights) >= 3
        rest = [str(a) for a in found if not any(a is w for w in weights)]
        return {a.dtype.name for a in weights}, rest

    wide, others = dtypes()
    narrow, same = dtypes(gradient_dtype="bfloat16")
    assert (wide, narrow) == ({"float32"}, {"bfloat16"})
    assert len(others) == len(same)


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_bfloat16_state_and_gradients_learn_as_float32_ones(optimizer: str) -> None:
    slot = {"adamw": {"optimizer": optimizers.adamw}}.get(optimizer, {})
    how: Any = {**TINY, **slot, "dtype": "bfloat16", "steps": 25, "accumulate": 2}
    wide, narrow = (
        short_training.train(language_model.experiment(**how, **more)).losses
        for more in (
            {},
            {"state_dtype": "bfloat16", "gradient_dtype": "bfloat16"},
        )
    )
    assert wide[0] == pytest.approx(narrow[0], rel=1e-3)
    assert np.mean(wide[-5:]) < 0.9 * wide[0]
    assert np.mean(narrow[-5:]) == pytest.approx(np.mean(wide[-5:]), rel=0.02)
