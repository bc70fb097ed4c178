"""`evaluate` on other data, and `generate` without the data of the run."""

import json
from types import SimpleNamespace

import commands
import jax
import numpy as np
import pytest

import transformer
from experiments import language_model
from transformer.generation import text_model
from transformer.network import masks
from transformer.training import metrics

pytestmark = pytest.mark.usefixtures("one_device")

LANGUAGE_MODEL = SimpleNamespace(
    experiment=language_model.experiment, generate=text_model.generate
)
TEXTS = {"a.txt": "Nobody was there, and so nobody saw it.", "b.txt": "So be it."}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run of a tiny language model, whose text is deleted, and two other texts."""
    root = tmp_path_factory.mktemp("other")
    lines = [f"It is a truth that {i} is less than {i + 1}.\n\n" for i in range(400)]
    (root / "text.txt").write_text("".join(lines))
    for name, text in TEXTS.items():
        (root / name).write_text(text)
    flags = "--depth=1 --sequence_length=64 --tokenizer=bytes --batch_size=8 --steps=2"
    paths = [f"--text={root / 'text.txt'}", f"--workdir={root / 'run'}"]
    with pytest.MonkeyPatch.context() as patch:
        argv = [*flags.split(), "--dtype=float32", *paths]
        assert commands.exit_status(argv, patch, run=LANGUAGE_MODEL) == 0
    (root / "text.txt").unlink()
    return root


def bits_per_byte(folder, text):
    """Of the whole text as one row, by float64 numpy from the logits."""
    run = transformer.load(folder / "run")
    tokens = [*text.encode(), run.tokenizer.end]
    ids_BL = np.array([tokens[:-1]], np.int32)
    place_BL = np.arange(ids_BL.shape[1], dtype=np.int32)[None]
    tokens_BL = masks.packed(np.ones_like(ids_BL), place_BL)
    apply = jax.jit(lambda params: run.net.apply({"params": params}, ids_BL, tokens_BL))
    x_BLD, w_VD = apply(run.params)
    logits_LV = np.asarray(x_BLD[0], np.float64) @ np.asarray(w_VD, np.float64).T
    log_sum_L = np.log(np.exp(logits_LV).sum(-1))
    nats = log_sum_L - logits_LV[np.arange(len(tokens) - 1), tokens[1:]]
    return nats.sum() / np.log(2) / (len(text.encode()) - 1)


def test_other_texts_are_measured_whole(folder, capsys, monkeypatch):
    """Each in a column, also where it is shorter than a row."""
    texts = f"--text={folder / 'a.txt'},{folder / 'b.txt'}"
    argv = ["evaluate", f"--workdir={folder / 'run'}", texts]
    assert commands.exit_status(argv, monkeypatch, run=LANGUAGE_MODEL) == 0
    start, head, *lines = capsys.readouterr().out.splitlines()
    assert start.startswith("language_model: run folder ")
    assert head.split() == [str(folder / "a.txt"), str(folder / "b.txt")]
    cells = {line.split()[0]: line.split()[1:] for line in lines}
    found = [float(cell) for cell in cells["validation/bits_per_byte"]]
    expected = [bits_per_byte(folder, (folder / f).read_text()) for f in TEXTS]
    np.testing.assert_allclose(found, expected, atol=2e-4)
    run = transformer.load(folder / "run")
    measured = run.evaluate(str(folder / "a.txt"))["validation"]
    assert measured["bits_per_byte"] == pytest.approx(expected[0], abs=2e-4)
    with pytest.raises(ValueError, match="expected the data of the run, or other data"):
        run.evaluate()


def test_a_file_that_is_gone_is_refused(folder, capsys, monkeypatch):
    argv = ["evaluate", f"--workdir={folder / 'run'}", "--text=/no/such.txt"]
    message = commands.refusal(argv, capsys, monkeypatch, run=LANGUAGE_MODEL)
    assert "expected a file or folder of text, got none at '/no/such.txt'" in message


def test_all_files_are_there_before_one_is_evaluated(folder, capsys, monkeypatch):
    evaluated = "transformer.training.evaluation.evaluate"
    monkeypatch.setattr(evaluated, lambda *_: pytest.fail("the first was evaluated"))
    texts = f"--text={folder / 'a.txt'},/no/such.txt"
    argv = ["evaluate", f"--workdir={folder / 'run'}", texts]
    message = commands.refusal(argv, capsys, monkeypatch, run=LANGUAGE_MODEL)
    assert "expected a file or folder of text, got none at '/no/such.txt'" in message


def test_generation_needs_no_text(folder, capsys, monkeypatch):
    argv = ["generate", f"--workdir={folder / 'run'}", "--prompt=It", "--new_tokens=2"]
    assert commands.exit_status(argv, monkeypatch, run=LANGUAGE_MODEL) == 0
    output = capsys.readouterr()
    assert output.out.startswith("It") and "data of the run is not needed" in output.err


def test_other_texts_are_evaluated_while_the_run_trains(folder, capsys, monkeypatch):
    """By their names, as `evaluate` measures them, with the tokenizer of the run."""
    lines = [f"{i} and {i} are {2 * i}." for i in range(200)]
    (folder / "sums.txt").write_text("\n\n".join(lines))
    flags = "--depth=1 --sequence_length=64 --vocab_size=300 --batch_size=8 --steps=2"
    other = str(folder / "a.txt")
    argv = [*flags.split(), f"--text={folder / 'sums.txt'}", "--dtype=float32"]
    argv += [f"--workdir={folder / 'sums'}", f"--evaluate_on={other},/no/such.txt"]
    message = commands.refusal(argv, capsys, monkeypatch, run=LANGUAGE_MODEL)
    assert "expected a file or folder of text" in message
    assert not (folder / "sums").exists()
    argv[-1] = f"--evaluate_on={other}"
    assert commands.exit_status(argv, monkeypatch, run=LANGUAGE_MODEL) == 0
    found = metrics.last_values(folder / "sums")
    expected = transformer.load(folder / "sums").evaluate(other)["validation"]
    for name, value in expected.items():
        assert found[f"{other}/{name}"] == pytest.approx(value, rel=1e-5)
    best = json.loads((folder / "sums" / "best.json").read_text())
    assert best["evaluation"] == "validation"
