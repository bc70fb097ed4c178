"""Log-mel spectrograms of speech (Whisper, Radford et al. 2022, arXiv 2212.04356,
section 2.2): frames of 25 ms, one every 10 ms, of sound at 16 kHz."""

from __future__ import annotations

import functools

import numpy as np

# Samples a second; of a frame; from one frame to the next.
RATE, FRAME, HOP = 16_000, 400, 160
# Decades below the loudest value at which values are cut off.
DECADES = 8.0
MIN_POWER = 1e-10
# Slaney's scale of mels: linear up to 1 kHz, then logarithmic.
LINEAR_HERTZ, BREAK_HERTZ = 200 / 3, 1000.0
LOG_STEP = np.log(6.4) / 27


def _hertz(mel: np.ndarray) -> np.ndarray:
    """Frequencies of mels on Slaney's scale."""
    first = BREAK_HERTZ / LINEAR_HERTZ
    above = BREAK_HERTZ * np.exp(LOG_STEP * (mel - first))
    return np.where(mel < first, LINEAR_HERTZ * mel, above)


@functools.cache
def mel_filters(mels: int) -> np.ndarray:
    """Triangles of equal area over the frequencies of a frame, spaced evenly in mels
    from 0 to 8 kHz: [`mels`, FRAME / 2 + 1] (Slaney 1998, Auditory Toolbox)."""
    top = BREAK_HERTZ / LINEAR_HERTZ + np.log(RATE / 2 / BREAK_HERTZ) / LOG_STEP
    edges = _hertz(np.linspace(0, top, mels + 2))
    frequencies = np.fft.rfftfreq(FRAME, 1 / RATE)
    left, center, right = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    rise = (frequencies[None] - left) / (center - left)
    fall = (right - frequencies[None]) / (right - center)
    height = 2 / (right - left)
    return height * np.maximum(0, np.minimum(rise, fall))


def log_mel(samples: np.ndarray, *, mels: int) -> np.ndarray:
    """The frames of a window of sound: float32 [samples / HOP, `mels`], the decimal
    logarithm of the power of each mel, cut off `DECADES` below the loudest, plus 4,
    over 4.

    samples: float32 in [-1, 1] at `RATE`, mono, a whole number of hops, padded with
    zeros already. ValueError for others.
    """
    samples = np.asarray(samples, np.float64)
    if samples.ndim != 1 or len(samples) % HOP or len(samples) <= FRAME // 2:
        raise ValueError(
            f"log_mel: expected samples in whole hops of {HOP}, more than "
            f"{FRAME // 2}, got shape {samples.shape}"
        )
    # A frame is centered on the first of its hop; both ends are mirrored.
    mirrored = np.pad(samples, FRAME // 2, mode="reflect")
    starts = np.arange(len(samples) // HOP) * HOP
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(FRAME) / FRAME)
    frames = np.lib.stride_tricks.sliding_window_view(mirrored, FRAME)[starts]
    spectrum = np.fft.rfft(frames * hann[None], axis=1)
    power = np.square(np.abs(spectrum)) @ mel_filters(mels).T
    decades = np.log10(np.maximum(power, MIN_POWER))
    decades = np.maximum(decades, decades.max() - DECADES)
    return ((decades + 4) / 4).astype(np.float32)


def cut_windows(samples: np.ndarray, length: int) -> list[np.ndarray]:
    """Sound in consecutive windows of `length` samples, padded with zeros, a multiple
    of HOP.

    A window of a longer file ends at the quietest tenth of a second of its last sixth,
    so that a word is seldom cut in two. `length` is a whole number of hops.
    """
    quiet, windows = min(RATE // 10, length // 6), []
    while len(samples) > length:
        first = length - length // 6
        squares = np.square(samples[first:length], dtype=np.float64)
        energy = np.concatenate([[0.0], np.cumsum(squares)])
        loudness = energy[quiet:] - energy[:-quiet]
        end = first + int(loudness.argmin()) + quiet // 2
        windows.append(samples[:end])
        samples = samples[end:]
    windows.append(samples)
    return [np.pad(window, (0, length - len(window))) for window in windows]
