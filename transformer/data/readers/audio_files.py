"""Sound files as samples of one channel: wav by SciPy, others (flac, ogg, mp3) by
soundfile, of the extra `audio`."""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np

from transformer import checks
from transformer.data.audio.log_mel import RATE
from transformer.data.notices import print_once
from transformer.data.readers.files import one_line

# Samples a second that are converted.
RATES = 1_000, 768_000


class Sound(NamedTuple):
    """What a file has: `rate` samples a second; samples, float64 [T, channels]."""

    rate: int
    samples: np.ndarray

    @property
    def length(self) -> int:
        """Samples of `mono`."""
        return -(-len(self.samples) * RATE // self.rate)

    def conversions(self) -> list[str]:
        """What `mono` does, in words."""
        changes = []
        if self.samples.shape[1] > 1:
            changes.append(f"the mean of {self.samples.shape[1]} channels")
        if self.rate != RATE:
            changes.append(f"{RATE} samples a second of {self.rate}")
        return changes

    def mono(self) -> np.ndarray:
        """float32, `RATE` samples a second, the mean of the channels."""
        return _resample(self.samples.mean(axis=1), self.rate).astype(np.float32)


def decode(file: Path | str) -> Sound:
    """The sound of a file as it is stored, in [-1, 1].

    ValueError, naming the file, where it is missing, truncated or no sound, and for
    samples that are not finite.
    """
    file = checks.expand_home(Path(file))
    if not file.is_file():
        raise ValueError(f"{file}: expected a sound file, got none")
    read = _read_wav if file.suffix.lower() in (".wav", ".wave") else _read_soundfile
    sound = Sound(*read(file))
    low, high = RATES
    if not low <= sound.rate <= high:
        raise ValueError(
            f"{file}: expected {low} to {high} samples a second, got {sound.rate}"
        )
    if sound.samples.size == 0 or not np.isfinite(sound.samples).all():
        raise ValueError(f"{file}: expected finite samples, got none or others")
    return sound


def read_audio(file: Path | str) -> np.ndarray:
    """The sound of a file: float32 in [-1, 1], `RATE` samples a second, the mean of its
    channels. Says in one line what was converted. Errors as `decode`."""
    sound = decode(file)
    changes = sound.conversions()
    if changes:
        print_once(f"{file}: {', '.join(changes)}")
    return sound.mono()


def _resample(samples: np.ndarray, rate: int) -> np.ndarray:
    if rate == RATE:
        return samples
    import scipy.signal

    common = math.gcd(rate, RATE)
    return scipy.signal.resample_poly(samples, RATE // common, rate // common)


def _read_wav(file: Path) -> tuple[int, np.ndarray]:
    """The rate and float64 samples [T, channels]."""
    from scipy.io import wavfile

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            rate, samples = wavfile.read(file)
        except Exception as error:  # SciPy raises many kinds for damaged files.
            raise ValueError(
                f"{file}: expected a wav file, got {one_line(error)}"
            ) from None
    cut = [str(w.message) for w in caught if "EOF" in str(w.message)]
    if cut:
        raise ValueError(f"{file}: expected a whole wav file, got: {cut[0]}")
    wide = samples.astype(np.float64)
    if wide.ndim == 1:
        wide = wide[:, None]
    if samples.dtype == np.uint8:
        wide = (wide - 128) / 128
    elif samples.dtype.kind == "i":
        wide = wide / -float(np.iinfo(samples.dtype).min)
    return rate, wide


def _read_soundfile(file: Path) -> tuple[int, np.ndarray]:
    try:
        import soundfile  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise ValueError(
            f"{file}: expected a .wav file, or soundfile installed (pip install "
            "'.[audio]'), got neither"
        ) from None
    try:
        samples, rate = soundfile.read(file, dtype="float64", always_2d=True)
    except soundfile.LibsndfileError as error:
        raise ValueError(
            f"{file}: expected a sound file, got {one_line(error)}"
        ) from None
    return rate, samples
