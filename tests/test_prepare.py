"""python -m transformer prepare: interruptions, refusals, and runs from its folder."""

import json
import signal
import subprocess
import sys
import time

import pytest
from commands import contents
from data_texts import write_corpus

from transformer import __main__ as command
from transformer import preparation, storage
from transformer.data.preparation import corpus
from transformer.data.text import shard_index

# Units are small, so that there are many to be interrupted between.
MAIN = """
import sys, time
from transformer import __main__ as command
from transformer.data.preparation import corpus, jobs

corpus.UNIT_BYTES = 400
wait, delay = float(sys.argv.pop(1)), jobs.write_index
def write_index(*arguments):
    time.sleep(wait)
    delay(*arguments)
jobs.write_index = write_index
sys.argv[0] = "prepare"
command.main()
"""
FLAGS = ["--tokenizer=bytes", "--shards=6", "--held_out=0.1", "--workers=2"]


@pytest.fixture(autouse=True, scope="module")
def cache_folder(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return write_corpus(tmp_path_factory.mktemp("data") / "corpus", files=40, rows=20)


def start(source, folder, *, wait: float = 0) -> subprocess.Popen:
    argv = ["prepare", str(source), f"--folder={folder}", *FLAGS]
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", MAIN, str(wait), *argv],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process) -> str:
    output = process.communicate(timeout=120)[0]
    assert process.returncode == 0, output
    return output


def kill_once(process, condition) -> None:
    """SIGKILL as soon as the condition holds, while the process runs."""
    deadline = time.monotonic() + 60
    while not condition():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.stdout.close()  # Which its workers may hold open a little longer.
    process.wait()
    assert process.returncode == -signal.SIGKILL


def test_restart_after_kill_gives_equal_bytes(source, tmp_path):
    """Killed among the units. What was finished is not made again."""
    folder, _ = killed_among_units(source, tmp_path)
    finish(start(source, folder))
    assert contents(folder) == contents(tmp_path / "whole")


def killed_among_units(source, tmp_path):
    """A folder that a killed process left, beside a whole one; and its units with the
    times at which they were written."""
    flags = {"tokenizer": "bytes", "shards": 6, "held_out": 0.1, "workers": 1}
    preparation.prepare(str(source), folder=str(tmp_path / "whole"), **flags)
    folder = tmp_path / "killed"
    units = folder / "work"
    kill_once(start(source, folder), lambda: len([*folder.glob("work/run-*.json")]) > 3)
    assert not (folder / shard_index.FILE).exists()
    return folder, {file: file.stat().st_mtime_ns for file in units.glob("run-*.json")}


@pytest.mark.slow
def test_restarts_after_kills_in_each_phase_give_equal_bytes(source, tmp_path):
    """Among the units, among the shards, and before the index. What was finished is not
    made again, unless it was damaged since."""
    folder, records = killed_among_units(source, tmp_path)
    work = folder / "work"

    def count(pattern):
        return len([*folder.glob(pattern)])

    kill_once(start(source, folder), lambda: count("work/train-*.json") > 0)
    kill_once(
        start(source, folder, wait=60), lambda: count("work/validation-*.json") > 0
    )
    shards = {path: path.stat().st_mtime_ns for path in folder.glob("*.tokens")}
    assert all(path.stat().st_mtime_ns == records[path] for path in records)
    damaged = sorted(work.glob("run-*.tokens"))[:3]
    tokens = 0
    for number, file in enumerate(damaged):
        content = file.read_bytes()
        file.write_bytes(content[:-1] if number else b"\1" + content[1:])
        tokens += json.loads(file.with_suffix(".json").read_bytes())["tokens"]
    output = finish(start(source, folder))
    assert f"encoded {tokens:,} tokens" in output
    assert all(path.stat().st_mtime_ns == shards[path] for path in shards)
    assert contents(folder) == contents(tmp_path / "whole")


def run(argv, capsys, monkeypatch) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["transformer", *map(str, argv)])
    status = 0
    try:
        command.main()
    except SystemExit as ended:
        status = ended.code
    captured = capsys.readouterr()
    return status, captured.out, captured.err


@pytest.fixture
def refuse(tmp_path, capsys, monkeypatch):
    def refuse(*argv, folder=tmp_path / "out"):
        flags = [f"--folder={folder}", *FLAGS[:3], "--workers=1"]
        status, _, error = run(["prepare", *flags, *argv], capsys, monkeypatch)
        assert status == 2 and error.count("\n") == 1, error
        return error

    return refuse


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


ROWS = '{"text": "a"}\n{"text": "b"}\n'


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.jsonl", ROWS + '{"text": "c"\n', "a.jsonl, row 3: expected JSON, got"),
        ("a.jsonl", ROWS + "[1]\n", "a.jsonl, row 3: expected an object, got list"),
        ("a.jsonl", ROWS + '{"b": 1}\n', "a.jsonl, row 3: expected one column 'text'"),
        ("a.jsonl", ROWS + '{"text": [1]}', "a.jsonl, row 3: expected text, got list"),
        ("a.csv", 'text\n"a', "a.csv, row 2: expected CSV, got"),
        ("a.tsv", "a\tb\n", "a.tsv, row 1: expected names of columns"),
        ("a.txt", b"ab\xff", "a.txt: expected UTF-8, got byte 0xff at offset 2"),
        ("a.txt", b"ab\xc3", "a.txt: expected UTF-8, got byte 0xc3 at offset 2"),
        ("a.txt.gz", b"\x1f\x8b", "a.txt.gz: expected a complete .gz file, got"),
        ("a.parquet", b"PAR1", "a.parquet: expected Parquet, got"),
        ("a.txt", "one", "expected two different documents or more, for a train and"),
        ("a.jsonl", '{"text": "a"}\n' * 5, "expected two different documents or more"),
        ("a.txt", "", "expected files of text or tables, got 1 files of 0 bytes"),
        (".hidden", "text", "expected files of text or tables, got 0 files of 0 bytes"),
    ],
)
def test_fault_of_the_corpus_is_one_line(tmp_path, refuse, name, content, expected):
    write(tmp_path / "corpus" / name, content)
    assert expected in refuse(tmp_path / "corpus")


def test_fault_in_a_parallel_process_is_one_line(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(corpus, "UNIT_BYTES", 10)
    for number in range(4):
        write(tmp_path / "corpus" / f"{number}.jsonl", ROWS + "{" * (number == 2))
    argv = ["prepare", tmp_path / "corpus", f"--folder={tmp_path / 'out'}", *FLAGS]
    status, _, error = run(argv, capsys, monkeypatch)
    assert status == 2 and error.count("\n") == 1
    assert "2.jsonl, row 3: expected JSON, got" in error


def test_file_that_is_gone_is_named(tmp_path, refuse):
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "link.txt").symlink_to(tmp_path / "nowhere")
    assert "link.txt: expected a file, got a broken link" in refuse(tmp_path / "corpus")


def test_two_processes_do_not_prepare_one_folder(source, tmp_path, refuse):
    (tmp_path / "out" / "work").mkdir(parents=True)
    with storage.claim_or_refuse(tmp_path / "out" / "work" / "lock", "the first"):
        assert "expected no other process" in refuse(source)


def test_faults_of_the_command_are_one_line(source, tmp_path, refuse):
    assert "--folder: expected the folder" in refuse(source, folder="")
    assert "outside of" in refuse(source, folder=source / "out")
    assert "got none at nowhere" in refuse("nowhere")
    assert "--tokenizer: expected bpe, " in refuse(source, "--tokenizer=nowhere")
    assert "expected --runner with options of Beam" in refuse(source, "--", "--x=1")
    assert "got 2 folders" in refuse(source, source)
    assert "--held_out: expected a number in (0, 0.5]" in refuse(source, "--held_out=1")


def test_finished_folder_is_kept_and_refuses_another_recipe_or_corpus(
    tmp_path, refuse, capsys, monkeypatch
):
    source, folder = tmp_path / "corpus", tmp_path / "out"
    file = write(source / "a.jsonl", ROWS * 3)
    argv = ["prepare", source, f"--folder={folder}", *FLAGS[:3], "--workers=1"]
    status, first, _ = run(argv, capsys, monkeypatch)
    assert status == 0 and "encoded 12 tokens" in first
    before = contents(folder)
    assert "complete; 7 shards" in run(argv, capsys, monkeypatch)[1]
    (folder / "train-00002-of-00006.tokens").write_bytes(b"")
    (folder / "tokenizer.json").unlink()
    assert run(argv, capsys, monkeypatch)[0] == 0 and contents(folder) == before
    for flags, expected in (
        (["--seed=1"], "seed 0, got 1"),
        (["--shards=5"], "shards (6, 1), got (5, 1)"),
        (["--text_column=a"], "text_column text, got a"),
        (["--tokenizer=characters"], "a tokenizer with hash "),
    ):
        assert expected in refuse(source, *flags)
    write(file, ROWS * 2 + '{"text": "c"}\n' * 2)
    assert "a.jsonl: expected the content with which" in refuse(source)
    write(source / "b.jsonl", ROWS)
    assert "the same 1 files, got 2, others as b.jsonl" in refuse(source)
    assert contents(folder) == before


def test_language_model_takes_tokens_and_tokenizer_of_the_folder(tmp_path, capsys):
    from experiments import language_model

    lines = [json.dumps({"text": f"document {n} " * 9}) for n in range(200)]
    table = write(tmp_path / "table.jsonl", "\n".join(lines))
    flags = {"vocab_size": 300, "held_out": 0.1, "workers": 1}
    folder = tmp_path / "prepared"
    index = preparation.prepare(str(table), folder=str(folder), **flags)
    table.unlink()
    workdir = tmp_path / "run"
    made = language_model.experiment(
        depth=1,
        sequence_length=16,
        text=str(folder),
        **{"batch_size": 8, "workdir": workdir},
    )
    assert "--tokenizer and --vocab_size are not used" in capsys.readouterr().out
    stored = (folder / "tokenizer.json").read_bytes()
    assert (workdir / "tokenizer.json").read_bytes() == stored
    assert made.extra_files["tokenizer.json"] == stored
    assert made.data.fingerprint == storage.short_hash(shard_index.to_bytes(index))
    assert made.net.vocab_size == index.tokenizer["vocab_size"]
    ids = made.batch(0, range(8))["ids_BL"]
    assert ids.shape == (8, 16) and ids.max() < index.tokenizer["vocab_size"]
