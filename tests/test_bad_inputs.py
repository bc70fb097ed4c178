"""Bad flags, records and files of a run: one line, before any computation."""

import errno
import json
import os
import shutil
from types import SimpleNamespace

import commands
import pytest

from experiments import dit_flow, image_gpt, language_model, maskgit, text_to_image
from transformer import checks
from transformer.generation import text_model
from transformer.training import faults

pytestmark = pytest.mark.usefixtures("one_device")

LANGUAGE_MODEL = SimpleNamespace(
    experiment=language_model.experiment, generate=text_model.generate
)
SHAPE = ["--depth=1", "--sequence_length=32", "--vocab_size=300", "--batch_size=8"]
RUN = [*SHAPE, "--steps=6", "--tokenizer=bytes", "--dtype=float32"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run of a short text."""
    folder = tmp_path_factory.mktemp("bad")
    lines = [f"It is a truth that {i} is less than {i + 1}.\n" for i in range(400)]
    (folder / "text.txt").write_text("".join(lines))
    argv = [*RUN, f"--text={folder / 'text.txt'}", f"--workdir={folder / 'run'}"]
    with pytest.MonkeyPatch.context() as patch:
        assert commands.exit_status(argv, patch, run=LANGUAGE_MODEL) == 0
    return folder / "run"


def refusal(argv, capsys, monkeypatch):
    capsys.readouterr()
    return commands.refusal(argv, capsys, monkeypatch, run=LANGUAGE_MODEL)


COUNT = "a whole number in [1, 2147483647]"
FLAGS = {
    "--depth=0": "--depth: expected a whole number in [1, 128], got '0'",
    "--depth=-1": "--depth: expected a whole number in [1, 128]",
    "--depth=100000": "--depth: expected a whole number in [1, 128]",
    "--depth=\u0663": "--depth: expected a whole number in [1, 128]",
    "--depth=\u00b2": "--depth: expected a whole number in [1, 128]",
    "--depth=0x10": "--depth: expected a whole number in [1, 128]",
    "--steps=2147483648": f"--steps: expected {COUNT}, got '2147483648'",
    "--steps=0": f"--steps: expected {COUNT}",
    "--seed=99999999999999999999": "--seed: expected a whole number in [0, 4294967295]",
    "--seed=-1": "--seed: expected a whole number in [0, 4294967295]",
    "--sequence_length=1": "--sequence_length: expected a whole number in [2, 1048576]",
    "--muon_learning_rate=0": "--muon_learning_rate: expected a number in (0, 10]",
    "--adam_learning_rate=-1": "--adam_learning_rate: expected a number in (0, 10]",
    "--adam_learning_rate=inf": "--adam_learning_rate: expected a number in (0, 10]",
    "--adam_learning_rate=nan": "--adam_learning_rate: expected a number in (0, 10]",
    "--decay_fraction=1.5": "--decay_fraction: expected a number in [0, 1]",
    "--ema_decay=1": "--ema_decay: expected a number in [0, 1), got '1'",
    "--freeze=(": "--freeze: expected a regular expression",
    "--init_from=/no/such": "--init_from: expected a run folder, got /no/such",
    "--profile=5": "--profile: expected the first and the last step",
    "--profile=5:7": "--profile: expected steps up to 6, the last of the run, got 5:7",
    "--freeze=.*": "--freeze: expected a parameter that is trained, got '.*', which",
    "--workdir=": "--workdir: expected a path, got none",
    "--workdir=~nobody-here/x": "--workdir: expected a user who has a home",
    "--workdir=a\udcff": "--workdir: expected text in UTF-8",
    "--workdir=/dev/null/x": "--workdir: expected a folder that can be written, got",
    "--text=~nobody-here/x": "expected a user who has a home, got ~nobody-here/x",
    "--text=/dev/zero": "expected a file or folder of text, got a pipe or device at",
    "--mesh=,": "--mesh: expected axis:size",
    "--evaluate_on=,": "--evaluate_on: expected different sources, at least one",
    "--evaluate_on=a,a": "--evaluate_on: expected different sources, at least one",
    "--checkpoint=best": "--checkpoint: expected the verb one that reads parameters",
    "--flagfile=/dev/zero": "--flagfile: there is no such flag; --help lists them",
    "--undefok=foo": "--undefok: there is no such flag; --help lists them",
    "--foo=1": "--foo: there is no such flag; --help lists them",
}


@pytest.mark.parametrize("flag", FLAGS)
def test_a_bad_flag_is_refused_with_its_range(flag, tmp_path, capsys, monkeypatch):
    argv = [*RUN, f"--workdir={tmp_path / 'run'}", flag]
    assert FLAGS[flag] in refusal(argv, capsys, monkeypatch)
    assert not (tmp_path / "run").exists()


def test_a_path_that_is_too_long_is_refused(capsys, monkeypatch):
    message = refusal([*RUN, "--workdir=" + 5000 * "a"], capsys, monkeypatch)
    assert message.startswith("error: --workdir: expected a path of a folder, got")


def test_a_run_folder_in_another_store_is_refused(capsys, monkeypatch, tmp_path):
    """It would become a folder called s3: on each host."""
    monkeypatch.chdir(tmp_path)
    message = refusal([*RUN, "--workdir=s3://bucket/run"], capsys, monkeypatch)
    assert (
        "expected a folder of a file system or gs://bucket/folder, got s3:" in message
    )
    assert not list(tmp_path.iterdir())


GENERATE = {
    "--prompt=a\udcff\udcfe": "--prompt: expected text in UTF-8, got 'a\\udcff\\udcfe'",
    "--temperature=inf": "--temperature: expected",
    "--temperature=1e-38": "--temperature: expected",
    "--temperature=-1": "--temperature: expected",
    "--top_k=0": "--top_k: expected",
    "--top_k=258": "expected",
    "--top_p=0": "--top_p: expected a number in (0, 1]",
    "--min_p=1.1": "--min_p: expected a number in [0, 1]",
    "--sample_seed=-1": "--sample_seed: expected a whole number in [0, 4294967295]",
    "--sample_seed=4294967296": "--sample_seed: expected a whole number",
    "--new_tokens=0": f"--new_tokens: expected {COUNT}",
    "--checkpoint=last": "--checkpoint: expected newest, best or one of the steps",
    "--checkpoint=5": "--checkpoint: expected newest, best or one of the steps",
    "--evaluate_on=a.txt": "--evaluate_on: expected the verb train, got generate",
    "--profile=1:2": "--profile: expected the verb train, got generate",
}


@pytest.mark.parametrize("flag", GENERATE)
def test_bad_flags_of_generate_are_refused(flag, finished, capsys, monkeypatch):
    argv = ["generate", f"--workdir={finished}", "--prompt=It", "--new_tokens=2", flag]
    assert GENERATE[flag] in refusal(argv, capsys, monkeypatch)


def edit_flag(name, value):
    """An edit of run.json that changes a recorded flag."""

    def edit(content):
        record = json.loads(content)
        record["flags"][name] = value
        return json.dumps(record).encode()

    return edit


def edit_record(name, value):
    """An edit of run.json that changes a fact of the run."""
    return lambda content: json.dumps({**json.loads(content), name: value}).encode()


def insert(line):
    """An edit of metrics.jsonl that makes `line` its second one."""

    def edit(content):
        first, _, rest = content.partition(b"\n")
        return b"\n".join([first, line, rest])

    return edit


def edit_leg(name, value):
    """An edit of run.json that changes a fact of its first leg."""

    def edit(content):
        record = json.loads(content)
        record["legs"][0][name] = value
        return json.dumps(record).encode()

    return edit


FILES = {
    "versions": ("run.json", edit_leg("versions", None), "legs: versions: expected an"),
    "command": ("run.json", edit_leg("command", 5), "legs: command: expected text"),
    "from_step": ("run.json", edit_leg("from_step", -5), "steps from 0 to 2^31 - 1,"),
    "to_step": ("run.json", edit_leg("to_step", 10**30), "steps from 0 to 2^31 - 1,"),
    "labels": ("run.json", edit_record("labels", 5), "labels: expected a list, got 5"),
    "deep": ("run.json", lambda content: b"[" * 99999, "run.json: expected JSON"),
    "key twice": (
        "run.json",
        lambda content: content.replace(b'"depth": 1', b'"depth": 1, "depth": 2', 1),
        "run.json: expected JSON, got the key 'depth' more than once",
    ),
    "empty": ("run.json", lambda content: b"", "run.json: expected JSON"),
    "depth=None": ("run.json", edit_flag("depth", None), "--depth: expected"),
    "depth=1.5": ("run.json", edit_flag("depth", 1.5), "--depth: expected"),
    "depth=-1": ("run.json", edit_flag("depth", -1), "--depth: expected"),
    "depth=true": ("run.json", edit_flag("depth", True), "--depth: expected"),
    "sequence_length=None": (
        "run.json",
        edit_flag("sequence_length", None),
        "run.json: --sequence_length: expected a whole number in [2, 1048576], got",
    ),
    "text=None": ("run.json", edit_flag("text", None), "--text: expected text"),
    "tokenizer": ("run.json", edit_flag("tokenizer", "evil"), "--tokenizer: expected"),
    "steps='x'": ("run.json", edit_flag("steps", "x"), "--steps: expected"),
    "rate='x'": (
        "run.json",
        edit_flag("muon_learning_rate", "x"),
        "--muon_learning_rate: expected",
    ),
    "batch_size='2'": ("run.json", edit_flag("batch_size", "2"), "--batch_size: exp"),
    "a list": ("finished.json", lambda content: b"[6]", "finished.json: expected"),
    "negative": (
        "finished.json",
        lambda content: b'{"step": -4}',
        "finished.json: step: expected 0 to 2^31 - 1, got -4",
    ),
    "null": ("finished.json", lambda content: b"null", "finished.json: expected"),
    "a text": (
        "finished.json",
        lambda content: b'{"step": "6"}',
        "finished.json: step: expected a whole number, got '6'",
    ),
    "one byte": ("metrics.jsonl", insert(b"\xff"), "metrics.jsonl, line 2: expected"),
    "a step twice": (
        "metrics.jsonl",
        insert(b'{"step": 1, "kind": "train", "step": 2}'),
        "metrics.jsonl, line 2: expected JSON, got the key 'step' more than once",
    ),
    "a number": ("metrics.jsonl", insert(b"3"), "metrics.jsonl, line 2: expected"),
    "no step": (
        "metrics.jsonl",
        insert(b'{"kind": "train"}'),
        "metrics.jsonl, line 2: step: expected a whole number, got 'nothing'",
    ),
    "step a text": (
        "metrics.jsonl",
        insert(b'{"kind": "train", "step": "1"}'),
        "metrics.jsonl, line 2: step: expected a whole number, got '1'",
    ),
    "no tokenizer": ("tokenizer.json", lambda content: b"{}", "tokenizer.json"),
}


@pytest.mark.parametrize("case", FILES)
def test_a_damaged_file_of_a_run_is_named(case, finished, capsys, monkeypatch):
    """And left as it is; the run goes on to more steps once it is mended."""
    name, edit, expected = FILES[case]
    file = finished / name
    content = file.read_bytes()
    damaged = edit(content)
    file.write_bytes(damaged)
    try:
        argv = [f"--workdir={finished}", "--steps=8"]
        assert expected in refusal(argv, capsys, monkeypatch)
        assert file.read_bytes() == damaged
    finally:
        file.write_bytes(content)


def test_other_flags_of_a_finished_run_are_refused(finished, capsys, monkeypatch):
    """They would change nothing without more steps."""
    argv = [f"--workdir={finished}", "--batch_size=4"]
    message = refusal(argv, capsys, monkeypatch)
    assert "is finished: expected a larger --steps" in message
    assert message.endswith("got --batch_size: 8 -> 4")
    same = [f"--workdir={finished}", "--batch_size=8"]
    assert commands.exit_status(same, monkeypatch, run=LANGUAGE_MODEL) == 0


@pytest.mark.parametrize("verb", ["train", "generate"])
def test_a_run_that_has_begun_starts_from_no_other(
    verb, finished, tmp_path, capsys, monkeypatch
):
    """It would go on from its own parameters, and say that it began from others."""
    shutil.copytree(finished, tmp_path / "other")
    argv = [verb, f"--workdir={finished}", f"--init_from={tmp_path / 'other'}"]
    message = refusal(argv, capsys, monkeypatch)
    assert "--init_from: expected None, which the parameters of the run in" in message


def test_a_damaged_record_of_a_finished_run_is_named(finished, capsys, monkeypatch):
    file = finished / "metrics.jsonl"
    content = file.read_bytes()
    file.write_bytes(insert(b"3")(content))
    try:
        message = refusal([f"--workdir={finished}"], capsys, monkeypatch)
        assert "metrics.jsonl, line 2: expected" in message
    finally:
        file.write_bytes(content)


SWEEPS = {
    "--seed=0,0": "sweep: expected --seed once, with different values",
    "--seed=0,00": "sweep: expected different runs, got seed=0 and seed=00",
    "--freeze=a*b,a_b": "sweep: expected folders of their own, got freeze=a_b twice",
    "--seed=0,1 --seed=2,3": "sweep: expected --seed once, with different values",
    "--seed=0,1 --workdir=/dev/null": "--workdir: expected a folder that can be wri",
}


@pytest.mark.parametrize("flag_text", SWEEPS)
def test_a_sweep_that_would_lose_a_value_is_refused(flag_text, capsys, monkeypatch):
    message = refusal(["sweep", *flag_text.split()], capsys, monkeypatch)
    assert SWEEPS[flag_text] in message


@pytest.mark.parametrize("module", [dit_flow, maskgit, image_gpt, text_to_image])
def test_a_run_that_the_report_reads_is_checked_first(
    module, finished, tmp_path, capsys, monkeypatch
):
    """Training is long; the report comes after it."""
    run = SimpleNamespace(experiment=module.experiment, verbs={"export": print})
    flag, kind = "classifier", "classify_images"
    if module is text_to_image:
        flag, kind = "scorer", "clip"
    argv = [f"--workdir={tmp_path / 'run'}", f"--{flag}={finished}"]
    message = commands.refusal(argv, capsys, monkeypatch, run=run)
    expected = f"--{flag}: expected a run of {kind}, got one of language_model at"
    assert expected in message
    argv[1] = f"--{flag}={tmp_path / 'none'}"
    message = commands.refusal(argv, capsys, monkeypatch, run=run)
    assert f"--{flag}: expected a run of {kind}, got none at" in message


@pytest.mark.parametrize("text", ["abc", "", "0", "-1", "nan", "inf", "1e9"])
def test_the_limit_of_a_step_is_a_number_of_seconds(text, monkeypatch):
    monkeypatch.setenv(faults.WATCHDOG_VARIABLE, text)
    with pytest.raises(ValueError, match="TRANSFORMER_STUCK_SECONDS: expected a num"):
        faults.watchdog_seconds()
    monkeypatch.setenv(faults.WATCHDOG_VARIABLE, "2.5")
    assert faults.watchdog_seconds() == 2.5


def test_help_of_a_sweep_is_no_fault(capsys, monkeypatch):
    assert commands.exit_status(["sweep", "--help"], monkeypatch) == 0
    assert "--workdir=" in capsys.readouterr().out


def test_the_shortest_row_is_trained_and_reported(tmp_path, monkeypatch):
    """No opening fits in it: the report begins with a letter."""
    (tmp_path / "text.txt").write_text("It is a truth.\n" * 400)
    argv = [*RUN, f"--text={tmp_path / 'text.txt'}", f"--workdir={tmp_path / 'run'}"]
    argv += ["--sequence_length=2", "--steps=1"]
    assert commands.exit_status(argv, monkeypatch, run=LANGUAGE_MODEL) == 0
    assert (tmp_path / "run/samples.txt").read_text().startswith("I")


def test_a_path_that_cannot_be_read_is_refused(monkeypatch, tmp_path):
    """Whatever the reader: here a loop of links beneath a folder that exists."""
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(ValueError, match="loop/a: expected a file or folder that can"):
        with checks.refuse_unreadable():
            (tmp_path / "loop/a").read_bytes()
    with pytest.raises(OSError, match="full"):
        with checks.refuse_unreadable():
            raise OSError(errno.ENOSPC, "full", "a")


def test_a_lock_that_is_a_folder_is_named(tmp_path, capsys, monkeypatch):
    (tmp_path / "run/lock").mkdir(parents=True)
    argv = [*RUN, f"--text={__file__}", f"--workdir={tmp_path / 'run'}"]
    message = refusal(argv, capsys, monkeypatch)
    assert "run/lock: expected a file, got a folder" in message


def test_a_tokenizer_that_is_a_folder_is_named(finished, tmp_path, capsys, monkeypatch):
    shutil.copytree(finished, tmp_path / "run")
    (tmp_path / "run/tokenizer.json").unlink()
    (tmp_path / "run/tokenizer.json").mkdir()
    argv = [f"--workdir={tmp_path / 'run'}", "--steps=8"]
    message = refusal(argv, capsys, monkeypatch)
    assert message.endswith("run/tokenizer.json: expected a file, got a folder")


@pytest.mark.parametrize(
    "name", ["run.json", "finished.json", "metrics.jsonl", "tokenizer.json", "lock"]
)
def test_a_pipe_in_a_run_folder_is_not_waited_for(
    name, finished, tmp_path, capsys, monkeypatch
):
    """Opening it would wait until somebody writes to it."""
    shutil.copytree(finished, tmp_path / "run")
    (tmp_path / "run" / name).unlink()
    os.mkfifo(tmp_path / "run" / name)
    argv = [f"--workdir={tmp_path / 'run'}", "--steps=8"]
    message = refusal(argv, capsys, monkeypatch)
    assert message.endswith(f"run/{name}: expected a file, got a pipe")
