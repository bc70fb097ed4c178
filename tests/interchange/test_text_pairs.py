"""T5 and Marian are trained further on pairs of texts, from a folder to a folder."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import commands
import jax
import marian_folder
import numpy as np
import pretrained_folder
import pytest

import transformer
from experiments import pretrained_text_to_text, translate
from transformer import main
from transformer.interchange import chat, export, folder, text_pairs, text_to_text
from transformer.interchange.text_rows import TextRows
from transformer.models import decoder
from transformer.network import masks
from transformer.objectives import cross_entropy
from transformer.training.checksum import leaf_paths

FIXTURES = Path(__file__).parent / "fixtures"
START, END = 0, 2


def codec(texts: Sequence[Sequence[int]]) -> text_to_text.TextCodec:
    """Texts are numbers of the ids in `texts`."""

    def encode(numbers: Sequence[str]) -> list[np.ndarray]:
        return [np.array(texts[int(number)], np.int32) for number in numbers]

    targets = text_to_text.TargetTokens(START, (END,), (), None)
    return text_to_text.TextCodec(TextRows(encode, 48, 0), encode, str, targets, 48)


def test_rows_are_a_source_and_a_target_behind_its_start() -> None:
    """A target without its end gets it; of long ones a source keeps its end, a target
    does not."""
    made = codec([[5, 6, 2], [7], [5, 6, 7, 8, 2]])
    rows, cut = text_pairs.encode(made, ["0", "2"], ["1", "2"], length=4)
    expected = {
        "source_BL": [[5, 6, 2, 0], [5, 6, 7, 2]],
        "source_segment_BL": [[1, 1, 1, 0], [1, 1, 1, 1]],
        "ids_BL": [[0, 7, 0, 0], [0, 5, 6, 7]],
        "targets_BL": [[7, 2, 0, 0], [5, 6, 7, 8]],
        "segment_BL": [[1, 1, 0, 0], [1, 1, 1, 1]],
    }
    assert cut == 1
    assert {name: array.tolist() for name, array in rows.items()} == expected


@pytest.mark.parametrize("name", ["marian", "t5", "t5_v1_1"])
def test_the_loss_of_a_batch_is_that_of_each_pair_alone(name: str) -> None:
    """Neither padding nor the other pairs nor a row of weight 0 counts."""
    opened = folder.open_folder(FIXTURES / name)
    params, net = opened.read_params(), opened.net
    rng = np.random.default_rng(0)
    texts = [[*rng.integers(3, 60, size).tolist(), END] for size in (3, 7, 1, 5)]
    pairs = [(0, 1), (2, 3), (1, 0)]
    sources, targets = ([str(pair[side]) for pair in pairs] for side in (0, 1))
    rows, _ = text_pairs.encode(codec(texts), sources, targets, length=12)
    batch = {**rows, "weight_B": np.array([1, 1, 0], np.float32)}
    loss = text_pairs.loss(net, "float32", objective=cross_entropy.cross_entropy)
    found = jax.jit(loss)(params, batch, jax.random.key(0))

    @jax.jit
    def predict(params: Any, *inputs: Any) -> jax.Array:
        readout = net.apply({"params": params}, *inputs)
        return jax.nn.log_softmax(decoder.logits(readout))

    nats, tokens = 0.0, 0
    for source, target in pairs[:2]:
        given, wanted = np.array([texts[source]]), np.array([texts[target]])
        ids = np.insert(wanted[:, :-1], 0, START, axis=1)
        places = [masks.single_document(a.shape[1]) for a in (given, ids)]
        inputs = given, places[0], ids, places[1]
        logs_LV = np.asarray(predict(params, *inputs))[0]
        nats -= float(logs_LV[np.arange(wanted.size), wanted[0]].sum())
        tokens += wanted.size
    np.testing.assert_allclose(found.total, nats, rtol=1e-5)
    assert found.weight == tokens


def write_t5(path: Path) -> Path:
    shutil.copytree(FIXTURES / "t5", path)
    pretrained_folder.write_tokenizer(path)
    return path


@pytest.mark.parametrize("write", [marian_folder.write, write_t5])
def test_the_commands_train_export_and_begin_again(
    write: Any, tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    """From a folder to a run, to another folder, which has the run's values and the
    tokenizer, and generates what the run does."""
    source, out = write(tmp_path / "source"), tmp_path / "out"
    table = tmp_path / "pairs.csv"
    rows = [f"the cat sat {i},the hen sat {i}" for i in range(80)]
    table.write_text("\n".join(["en,pt", *rows]))
    run = type("Run", (), {"verbs": {"generate": chat.generate}})
    run.verbs["export"] = export.export  # pyright: ignore
    run.experiment = staticmethod(pretrained_text_to_text.experiment)  # pyright: ignore
    where = f"--workdir={tmp_path / 'run'}"
    data = [f"--source={table}", "--columns=en,pt", "--batch_size=8", "--dtype=float32"]
    argv = [where, f"--init_from={source}", *data, "--steps=2", "--learning_rate=0.01"]
    assert commands.exit_status(argv, monkeypatch, run=run) == 0
    argv = ["export", where, f"--folder={out}"]
    assert commands.exit_status(argv, monkeypatch, run=run) == 0
    before, after = (folder.open_folder(path).read_params() for path in (source, out))
    changed = [
        not np.array_equal(leaf, leaf_paths(before)[path])
        for path, leaf in leaf_paths(after).items()
    ]
    assert all(changed)
    for name, content in folder.companions_of(source).items():
        assert (out / name).read_bytes() == content
    capsys.readouterr()
    argv = ["generate", where, "--prompt=the cat sat", "--new_tokens=6"]
    assert commands.exit_status(argv, monkeypatch, run=run) == 0
    text = capsys.readouterr().out.splitlines()[-1]
    assert transformer.load(out).generate("the cat sat", new_tokens=6) == text


def test_other_models_and_experiments_are_refused_by_name(tmp_path: Path) -> None:
    source = pretrained_folder.write(tmp_path / "llama")
    with pytest.raises(ValueError, match="expected T5 or Marian, got LlamaForCausalLM"):
        pretrained_text_to_text.experiment(workdir=source, init_from=source)
    with pytest.raises(ValueError, match="pretrained_text_to_text T5 and Marian"):
        main.run(translate.experiment, tmp_path / "run", init_from=source)
