"""What every experiment that starts from a folder of another library refuses, when."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import marian_folder
import pretrained_folder
import pytest
import safetensors.numpy

import experiments
from transformer.interchange import pretrained_run


class Case(NamedTuple):
    """write(path) -> a folder of the experiment's kind. data: its flag of data. flags:
    others that it cannot do without."""

    write: Callable[[Path], Path]
    data: str
    flags: Mapping[str, Any] = {}


CASES = {
    "pretrained": Case(pretrained_folder.write, "text"),
    "pretrained_classifier": Case(pretrained_folder.write_vit, "source"),
    "pretrained_clip": Case(pretrained_folder.write_dual_encoder, "source"),
    "pretrained_speech": Case(
        pretrained_folder.write_whisper, "source", {"language": "pt"}
    ),
    "pretrained_mlm": Case(pretrained_folder.write_masked_lm, "text"),
    "pretrained_text_to_text": Case(marian_folder.write, "source"),
}


def test_every_experiment_has_a_case() -> None:
    (folder,) = experiments.__path__
    assert {path.stem for path in Path(folder).glob("pretrained*.py")} == set(CASES)


@pytest.mark.parametrize("name", CASES)
def test_tensors_are_refused_before_the_data_are_looked_for(
    name: str, tmp_path: Path
) -> None:
    """Of another shape, or missing; on the command line too, where the folder stands
    for the one of the run that has not begun."""
    case, source = CASES[name], tmp_path / "source"
    case.write(source)
    make: Any = importlib.import_module(f"experiments.{name}").experiment
    data = {**case.flags, case.data: str(tmp_path / "nothing.csv")}
    with pytest.raises(ValueError, match=r"nothing\.csv"):
        make(init_from=source, **data)
    (file,) = source.glob("*.safetensors")
    tensors = safetensors.numpy.load_file(file)
    first = min(key for key, values in tensors.items() if values.ndim == 2)
    rows = tensors.pop(first)[1:]
    safetensors.numpy.save_file({**tensors, first: rows}, file)
    with pytest.raises(ValueError, match=f"{first}: expected .*shape"):
        make(init_from=source, workdir=source, **data)
    safetensors.numpy.save_file(tensors, file)
    for begins in (None, source):
        with pytest.raises(ValueError, match=first):
            make(init_from=source, workdir=begins, **data)


def test_a_run_that_has_begun_does_not_need_the_folder_that_it_starts_from(
    tmp_path: Path,
) -> None:
    run = pretrained_folder.write(tmp_path / "run")
    (run / "model.safetensors").unlink()
    made = pretrained_run.read(run, tmp_path / "gone")
    assert made.resumes and made.model.folder == run
    with pytest.raises(ValueError, match="gone"):
        made.start.check(made.model.net)


def test_changed_sizes_are_those_of_the_net_the_files_and_the_export() -> None:
    place = Path(__file__).parent / "fixtures" / "vit_classifier"
    made = pretrained_run.read(None, place)
    sizes = made.model.sizes._replace(labels=("a", "b"))
    changed = made.change_sizes(sizes, None).fields()
    params = jax.eval_shape(changed["init"], jax.random.key(0))
    assert params["unembedding_VD"].shape[0] == 2
    assert b'"b": 1' in changed["extra_files"]["config.json"]
    assert changed["verbs"]["export"].args[0].sizes == sizes
    assert changed["warm_start"] is None
