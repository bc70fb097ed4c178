"""The Beam pipeline gives the bytes of the in-process path, by the local runner."""

import sys

import pytest
from commands import contents
from data_texts import write_corpus

from transformer import preparation
from transformer.data.preparation import corpus, jobs

FLAGS = {"tokenizer": "bytes", "shards": 4, "held_out": 0.1, "workers": 1}
NEEDS_BEAM = "needs apache_beam (pip install -e '.[beam]')"


@pytest.fixture(autouse=True)
def small_units(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(corpus, "UNIT_BYTES", 1000)


def prepare(source, target, *options, **flags):
    flags = FLAGS | flags
    return preparation.prepare(str(source), options, folder=str(target), **flags)


@pytest.mark.filterwarnings("ignore")  # Beam's own.
@pytest.mark.parametrize(
    "options",
    [(), ("--direct_running_mode=multi_processing", "--direct_num_workers=2")],
    ids=["one process", "two processes"],
)
def test_pipeline_gives_the_bytes_of_the_in_process_path(tmp_path, options, capsys):
    pytest.importorskip("apache_beam", reason=NEEDS_BEAM)
    source = write_corpus(tmp_path / "corpus")
    prepare(source, tmp_path / "local")
    expected = capsys.readouterr().out.splitlines()[-1].split(" in ")[0]
    prepare(source, tmp_path / "beam", *options, runner="DirectRunner")
    assert contents(tmp_path / "beam") == contents(tmp_path / "local")
    assert capsys.readouterr().out.splitlines()[-1].split(" in ")[0] == expected


@pytest.mark.filterwarnings("ignore")
def test_pipeline_goes_on_from_what_is_there(tmp_path, monkeypatch, capsys):
    pytest.importorskip("apache_beam", reason=NEEDS_BEAM)
    source = write_corpus(tmp_path / "corpus")
    with monkeypatch.context() as patch:
        patch.setattr(jobs, "missing_shards", lambda job, found: 1 // 0)
        with pytest.raises(ZeroDivisionError):
            prepare(source, tmp_path / "out")
    prepare(source, tmp_path / "out", runner="DirectRunner")
    assert "encoded 0 tokens" in capsys.readouterr().out
    prepare(source, tmp_path / "local")
    assert contents(tmp_path / "out") == contents(tmp_path / "local")


@pytest.mark.filterwarnings("ignore")
def test_fault_of_the_corpus_is_one_line(tmp_path):
    pytest.importorskip("apache_beam", reason=NEEDS_BEAM)
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\n{')
    with pytest.raises(ValueError) as refused:
        prepare(tmp_path / "a.jsonl", tmp_path / "out", runner="DirectRunner")
    expected = f"{tmp_path / 'a.jsonl'}, row 2: expected JSON, got Expecting property"
    assert str(refused.value).startswith(expected)
    assert "\n" not in str(refused.value)


def test_runner_without_the_library_is_refused(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "apache_beam", None)
    source = write_corpus(tmp_path / "corpus")
    with pytest.raises(ValueError, match="pip install 'transformer.beam.'"):
        prepare(source, tmp_path / "out", runner="DirectRunner")
    assert not (tmp_path / "out").exists()
