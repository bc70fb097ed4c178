"""Whisper is trained further on recordings with their texts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import commands
import jax
import numpy as np
import pretrained_folder
import pytest
from scipy.io import wavfile

import transformer
from experiments import language_model, pretrained_speech
from transformer import main
from transformer.data.audio import log_mel
from transformer.data.readers import audio_files
from transformer.data.sources import recordings
from transformer.interchange import export, folder, speech_rows, tasks
from transformer.models import decoder
from transformer.network import masks
from transformer.training.checksum import leaf_paths

FIXTURES = Path(__file__).parent / "fixtures"
TEXTS = [f"the hen {number}" for number in range(20)]
# The end, and the prompt in Portuguese.
END, PROMPT = 257, [259, 261, 263, 264]


def model_of(path: Path) -> tasks.Model:
    made, sizes = folder.read_config(path)
    return tasks.Model(path, made, sizes, made.net(sizes))


def read(path: Path, language: str | None = "pt", **options: Any) -> Any:
    how = {"task": "transcribe", "length": 48, **options}
    return speech_rows.read(model_of(path), language, **how)


def test_a_row_is_the_prompt_and_the_text(tmp_path: Path) -> None:
    """Each token predicts the next; those of the prompt have weight 0."""
    codec = read(pretrained_folder.write_whisper(tmp_path / "whisper"))
    assert codec.prompt == PROMPT
    assert [ids.tolist() for ids in codec.encode(["he"])] == [[220, 256]]
    texts = [np.array([7, 8]), np.array([9])]
    rows = speech_rows.text_rows(codec, texts, length=7)
    expected = {
        "ids_BL": [[*PROMPT, 7, 8, END], [*PROMPT, 9, END, END]],
        "targets_BL": [[*PROMPT[1:], 7, 8, END, END], [*PROMPT[1:], 9, END, END, END]],
        "segment_BL": [[1, 1, 1, 1, 1, 1, 0], [1, 1, 1, 1, 1, 0, 0]],
        "weight_BL": [[0, 0, 0, 1, 1, 1, 0], [0, 0, 0, 1, 1, 0, 0]],
    }
    assert {name: array.tolist() for name, array in rows.items()} == expected


def test_a_text_begins_with_a_space_where_its_language_has_some(tmp_path: Path) -> None:
    path = pretrained_folder.write_whisper(tmp_path / "w", languages=("ja", "pt"))
    for language, task, spaced in (
        ("pt", "transcribe", True),
        ("ja", "transcribe", False),
        ("ja", "translate", True),
    ):
        (ids,) = read(path, language, task=task).encode(["he"])
        assert (ids[0] == 220) == spaced


def test_the_loss_of_a_batch_is_that_of_each_recording_alone(tmp_path: Path) -> None:
    """Neither padding nor a row of weight 0 nor the prompt counts; the frames are those
    that `transcribe` sees."""
    source = pretrained_folder.write_whisper(tmp_path / "whisper")
    table = pretrained_folder.write_recordings(tmp_path / "clips", TEXTS)
    opened, codec = folder.open_folder(source), read(source)
    params, net = opened.read_params(), opened.net
    data = speech_rows.drop_long(recordings.load(table), codec)
    how: Any = {"length": 20, "batch_size": 4, "seed": 0}
    _, held_out = speech_rows.splits(data, codec, **how)
    batch = held_out.batch(0, range(4))
    assert batch["weight_B"].tolist() == [1, 0, 0, 0]
    found = jax.jit(speech_rows.loss(net, "float32"))(params, batch, jax.random.key(0))
    (file,), (text,) = (data.validation[name] for name in ("file", "text"))
    (ids,) = codec.tokenizer.encode_pieces([f" {text}"])
    samples = audio_files.read_audio(file)
    (window,) = log_mel.cut_windows(samples, 40 * log_mel.HOP)
    raw_BLP = log_mel.log_mel(window, mels=5)[None]
    np.testing.assert_array_equal(batch["raw_BLP"][:1], raw_BLP)
    whole = np.array([[*PROMPT, *ids, END]])
    places = [masks.single_document(n) for n in (20, whole.shape[1] - 1)]
    inputs = raw_BLP, places[0], whole[:, :-1], places[1]
    readout: Any = jax.jit(net.apply)({"params": params}, *inputs)
    logs_LV = jax.nn.log_softmax(decoder.logits(readout))[0]
    wanted = [*ids, END]
    nats = -sum(float(logs_LV[3 + i, one]) for i, one in enumerate(wanted))
    np.testing.assert_allclose(found.total, nats, rtol=1e-5)
    assert found.weight == len(wanted)


def test_the_commands_train_and_export(
    tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    """From a folder to a run, whose loss falls, to another folder, which has the run's
    values and writes what the run does. The encoder's sines stay."""
    source, out = tmp_path / "source", tmp_path / "out"
    pretrained_folder.write_whisper(source)
    table = pretrained_folder.write_recordings(tmp_path / "clips", TEXTS)
    run = type("Run", (), {"verbs": {"export": export.export}})
    run.verbs["transcribe"] = tasks.transcribe  # pyright: ignore
    run.experiment = staticmethod(pretrained_speech.experiment)  # pyright: ignore
    where = f"--workdir={tmp_path / 'run'}"
    argv = [where, f"--init_from={source}", f"--source={table}", "--language=pt"]
    argv += ["--steps=20", "--batch_size=8", "--log_every=1", "--dtype=float32"]
    argv += ["--learning_rate=0.01"]
    assert commands.exit_status(argv, monkeypatch, run=run) == 0
    printed = capsys.readouterr().out
    assert "accuracy" in printed and "wer: " in printed
    losses = [loss for _, loss in commands.losses(tmp_path / "run")]
    assert losses[-1] < losses[0] - 0.5
    argv = ["export", where, f"--folder={out}"]
    assert commands.exit_status(argv, monkeypatch, run=run) == 0
    before, after = (folder.open_folder(path).read_params() for path in (source, out))
    same = {
        path
        for path, leaf in leaf_paths(after).items()
        if np.array_equal(leaf, leaf_paths(before)[path])
    }
    assert same == {"encoder/embed/position/position_LD"}
    for name, content in folder.companions_of(source).items():
        assert (out / name).read_bytes() == content
    capsys.readouterr()
    sound = table.parent / "0.wav"
    argv = ["transcribe", where, f"--audio={sound}", "--language=pt"]
    assert commands.exit_status(argv, monkeypatch, run=run) == 0
    text = capsys.readouterr().out.splitlines()[-1].partition("): ")[2]
    (found,) = transformer.load(out).transcribe(sound, language="pt")
    assert found.text == text


def write_long(table: Path) -> None:
    """A recording that is longer than a window."""
    samples = np.full(log_mel.RATE, 0.1, np.float32)
    wavfile.write(table.parent / "0.wav", log_mel.RATE, samples)


def test_what_is_too_long_is_left_out_and_counted(tmp_path: Path, capsys: Any) -> None:
    """One with a long text, one that is itself longer, and one of both."""
    source = pretrained_folder.write_whisper(tmp_path / "whisper")
    texts = [*TEXTS, "the cats and the hens", "a hen"]
    texts[0] = "the hens and the cats"
    table = pretrained_folder.write_recordings(tmp_path / "clips", texts)
    write_long(table)
    codec = read(source, length=18)
    data = speech_rows.drop_long(recordings.load(table), codec)
    left = [*data.train["text"], *data.validation["text"]]
    assert sorted(left) == sorted([*TEXTS[1:], "a hen"])
    assert capsys.readouterr().out.splitlines()[-1] == (
        f"{table}: 2 of 21 training and 0 of 1 held-out recordings are left out: 1 are "
        "longer than 0.4 s, 1 have texts of more than 14 tokens"
    )
    # The longest text has 9 tokens of its own, after a space.
    assert speech_rows.row_length(data, codec) == 16
    with pytest.raises(
        ValueError, match="at most 0.4 s and 1 tokens, got 21, of which"
    ):
        speech_rows.drop_long(recordings.load(table), read(source, length=5))


def test_sound_is_read_when_a_batch_is(tmp_path: Path) -> None:
    """Memory does not grow with the recordings: one that is gone is missed then."""
    source = pretrained_folder.write_whisper(tmp_path / "whisper")
    table = pretrained_folder.write_recordings(tmp_path / "clips", TEXTS)
    codec = read(source)
    data = speech_rows.drop_long(recordings.load(table), codec)
    how: Any = {"length": 20, "batch_size": 4, "seed": 0}
    train, _ = speech_rows.splits(data, codec, **how)
    write_long(table)
    (table.parent / "1.wav").unlink()
    with pytest.raises(ValueError, match=r"0.wav: .* at most 6400 samples, got 16000"):
        codec.frames(str(table.parent / "0.wav"))
    with pytest.raises(ValueError, match="wav: expected"):
        [train.batch(step, range(4)) for step in range(5)]


def test_a_model_of_english_only_needs_no_language(tmp_path: Path) -> None:
    source = pretrained_folder.write_whisper(tmp_path / "whisper", languages=())
    for language in (None, "en"):
        codec = read(source, language)
        assert codec.prompt == [259, 260]
    with pytest.raises(ValueError, match="the model is of English only, got pt"):
        read(source, "pt")


def test_a_folder_is_refused_before_the_data_are_read(
    tmp_path: Path, monkeypatch: Any
) -> None:
    def load(*arguments: Any, **options: Any) -> Any:
        raise AssertionError("the data are read")

    monkeypatch.setattr(pretrained_speech.recordings, "load", load)
    make: Any = pretrained_speech.experiment
    other = pretrained_folder.write(tmp_path / "llama")
    with pytest.raises(ValueError, match="expected Whisper, got LlamaForCausalLM"):
        make(init_from=other)
    source = pretrained_folder.write_whisper(tmp_path / "whisper")
    for flags, message in (
        ({}, "--language: expected that of the recordings, one of en, pt, got none"),
        ({"language": "fr"}, "language: expected one of en, pt, got fr"),
        ({"language": "pt", "sequence_length": 4}, "expected more than 4, the tokens"),
    ):
        with pytest.raises(ValueError, match=message):
            make(init_from=source, **flags)
    with pytest.raises(ValueError, match="experiments.pretrained_speech Whisper"):
        main.run(language_model.experiment, tmp_path / "run", init_from=source)


def test_a_text_with_a_token_of_the_prompt_is_refused(tmp_path: Path) -> None:
    source = pretrained_folder.write_whisper(tmp_path / "whisper")
    texts = [*TEXTS, "the hen <|end|>"]
    table = pretrained_folder.write_recordings(tmp_path / "clips", texts)
    with pytest.raises(ValueError, match=r"its end, got 'the hen <\|end\|>'"):
        speech_rows.drop_long(recordings.load(table), read(source))
