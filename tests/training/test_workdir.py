"""The run folder: its record, its report, and folders of another layout."""

import json
import linecache
import types

import numpy as np
import pytest
import tiny_experiment

from transformer.training import legs, workdir


def begin(folder, **flags):
    """The record of a tiny run begun in `folder`."""
    made = tiny_experiment.experiment(**flags)._replace(extra_files={"a.json": b"{}"})
    source_code = workdir.source_code_of(tiny_experiment.experiment)
    workdir.write_record(folder, made, flags, source_code)
    return workdir.read_record(folder)


def test_record_is_written_at_the_first_start_only(tmp_path):
    folder = tmp_path / "runs" / "first"
    assert workdir.read_record(folder) is None
    record = begin(folder, width=4)
    assert record["layout"] == workdir.LAYOUT
    assert record["experiment"] == "tiny_experiment"
    assert record["fingerprint"] == "MLP of width 4"
    assert record["flags"] == {"width": 4}
    assert record["legs"][0]["versions"].keys() == set(legs.PACKAGES)
    assert (folder / "a.json").read_bytes() == b"{}"
    assert "A run of milliseconds a step" in (folder / "experiment.py").read_text()
    assert begin(folder, width=4) == record


@pytest.mark.parametrize("layout", [{}, {"layout": 2}, {"layout": 4}])
def test_folder_of_another_layout_is_refused(layout, tmp_path):
    record = {"experiment": "tiny_experiment", "flags": {}, **layout}
    (tmp_path / "run.json").write_text(json.dumps(record))
    with pytest.raises(ValueError, match="expected a run folder of layout 3") as error:
        workdir.read_record(tmp_path)
    assert str(tmp_path) in str(error.value) and "\n" not in str(error.value)


def test_report_is_written_by_kind_of_content(tmp_path, capsys):
    """Text, bytes, an image, a figure and numbers, which are printed; then the run is
    finished."""
    from matplotlib.figure import Figure

    report = {
        "text.txt": "é",
        "raw.bin": b"\0",
        "image.png": np.zeros((3, 4)),
        "figure.png": Figure(),
        "results.json": {"accuracy": 0.123456, "rows": 8, "baseline": "none"},
    }
    experiment = types.SimpleNamespace(report=lambda params, key: report, seed=0)
    assert workdir.last_step(tmp_path) is None
    workdir.finish(tmp_path, experiment, {}, 7)
    assert workdir.last_step(tmp_path) == 7
    assert (tmp_path / "text.txt").read_text() == "é"
    assert (tmp_path / "raw.bin").read_bytes() == b"\0"
    for name in ("image.png", "figure.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
    numbers = json.loads((tmp_path / "results.json").read_text())
    assert numbers == report["results.json"]
    assert capsys.readouterr().out == "accuracy: 0.1235\nrows: 8\nbaseline: none\n"
    assert json.loads((tmp_path / workdir.FINISHED).read_text()) == {"step": 7}
    assert not list(tmp_path.glob("*.partial"))


def test_source_of_a_notebook_is_its_cell():
    """It is no file on disk; the kernel keeps its lines in `linecache`."""
    text, name = "def blend(): pass\n", "ipykernel_1/1.py"
    cell: dict = {}
    exec(compile(text, name, "exec"), cell)
    linecache.cache[name] = len(text), None, [text], name
    assert workdir.source_code_of(cell["blend"]) == text
