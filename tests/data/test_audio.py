"""Sound files and log-mel frames: equal to those of transformers, whatever the file."""

from __future__ import annotations

import wave
from pathlib import Path

import numpy as np
import pytest
from scipy.io import wavfile

from transformer.data.audio import log_mel
from transformer.data.readers import audio_files

FIXTURE = Path(__file__).parents[1] / "interchange" / "fixtures" / "log_mel.npz"
TONE = 0.5 * np.sin(2 * np.pi * 440 * np.arange(4800) / 48_000)


@pytest.mark.parametrize("mels", [80, 128])
def test_frames_are_those_of_transformers(mels: int) -> None:
    """Which differ by 5e-6 between its own two implementations."""
    reference = np.load(FIXTURE)
    samples = reference["samples"].astype(np.float32) / 32_768
    window = np.pad(samples, (0, 30 * log_mel.RATE - len(samples)))
    got = log_mel.log_mel(window, mels=mels)
    assert got.shape == (3000, mels)
    expected = reference[f"frames_{mels}"]
    np.testing.assert_allclose(got[reference["index"]], expected, atol=2e-5)


def test_a_spectrogram_is_of_whole_hops() -> None:
    with pytest.raises(ValueError, match="whole hops of 160"):
        log_mel.log_mel(np.zeros(401), mels=80)


def test_windows_are_the_file_cut_where_it_is_quietest() -> None:
    length = 1200 * log_mel.HOP
    samples = np.random.default_rng(0).standard_normal(2 * length + 1000) + 3
    pause = length - 20_000
    samples[pause : pause + 1600] = 0
    windows = log_mel.cut_windows(samples.astype(np.float32), length)
    assert {len(window) for window in windows} == {length} and len(windows) == 3
    whole = np.concatenate([np.trim_zeros(window, "b") for window in windows])
    np.testing.assert_allclose(whole[whole != 0], samples[samples != 0], rtol=1e-6)
    assert windows[0].nonzero()[0].max() < pause and windows[1][0] == 0


def test_a_short_file_is_one_window() -> None:
    (window,) = log_mel.cut_windows(np.ones(5, np.float32), 320)
    assert window.sum() == 5 and len(window) == 320


@pytest.mark.parametrize("kind", [np.uint8, np.int16, np.int32, np.float32])
def test_wav_files_of_each_kind_are_the_same_sound(
    kind: type, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two channels at 48 kHz: their mean, a third as many samples."""
    channels = np.stack([TONE, 0.5 * TONE], axis=1)
    if kind is np.uint8:
        stored = np.round(channels * 128 + 128).astype(kind)
    elif kind is np.float32:
        stored = channels.astype(kind)
    else:
        stored = np.round(channels * np.iinfo(kind).max).astype(kind)
    file = tmp_path / "tone.wav"
    wavfile.write(file, 48_000, stored)
    got = audio_files.read_audio(file)
    assert got.dtype == np.float32 and len(got) == len(TONE) // 3
    # Away from the ends, where the filter of the conversion sees silence.
    inner = slice(100, -100)
    expected = 0.75 * TONE[::3]
    np.testing.assert_allclose(got[inner], expected[inner], atol=5e-3)
    assert "mean of 2 channels, 16000 samples a second of 48000" in (
        capsys.readouterr().out
    )


def test_wav_files_of_24_bits_are_read(tmp_path: Path) -> None:
    stored = np.round(TONE * (2**23 - 1)).astype("<i4")
    with wave.open(str(tmp_path / "tone.wav"), "wb") as file:
        file.setparams((1, 3, log_mel.RATE, 0, "NONE", ""))
        file.writeframes(stored.view(np.uint8).reshape(-1, 4)[:, :3].tobytes())
    got = audio_files.read_audio(tmp_path / "tone.wav")
    np.testing.assert_allclose(got, TONE, atol=1e-6)


def test_flac_files_are_read(tmp_path: Path) -> None:
    soundfile = pytest.importorskip("soundfile")
    soundfile.write(tmp_path / "tone.flac", TONE, log_mel.RATE)
    got = audio_files.read_audio(tmp_path / "tone.flac")
    np.testing.assert_allclose(got, TONE, atol=1e-4)


def test_files_that_are_no_sound_are_refused(tmp_path: Path) -> None:
    whole = tmp_path / "whole.wav"
    wavfile.write(whole, log_mel.RATE, TONE.astype(np.float32))
    content = whole.read_bytes()
    silence = tmp_path / "silence.wav"
    wavfile.write(silence, log_mel.RATE, np.empty(0, np.int16))
    cases = {
        "cut.wav": (content[:-400], "expected a whole wav file"),
        "text.wav": (b"It is a truth", "expected a wav file"),
        "empty.wav": (b"", "expected a wav file"),
        "none.wav": (silence.read_bytes(), "expected finite samples, got none"),
        "text.flac": (b"It is a truth", "expected a sound file"),
    }
    for name, (stored, message) in cases.items():
        (tmp_path / name).write_bytes(stored)
        with pytest.raises(ValueError, match=f"{name}: {message}"):
            audio_files.read_audio(tmp_path / name)
    with pytest.raises(ValueError, match="gone.wav: expected a sound file, got none"):
        audio_files.read_audio(tmp_path / "gone.wav")
    wavfile.write(tmp_path / "nan.wav", log_mel.RATE, np.float32([0, np.nan]))
    with pytest.raises(ValueError, match="nan.wav: expected finite samples"):
        audio_files.read_audio(tmp_path / "nan.wav")
    wavfile.write(tmp_path / "slow.wav", 100, np.float32([0, 1]))
    with pytest.raises(ValueError, match="slow.wav: expected 1000 to 768000 samples"):
        audio_files.read_audio(tmp_path / "slow.wav")
