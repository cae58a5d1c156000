"""Duplicate detection: a hash of the samples for identical clips, an acoustic fingerprint for nearly identical ones.

The fingerprint survives other gains, codecs, rates and padding. It does not find the same recording cut elsewhere:
that is what the recording ids and times of the metadata are for (`leaks.metadata_leaks`).
"""

import hashlib
from typing import Any, NamedTuple

import datasets
import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from urbansound_hf import progress
from urbansound_hf.audio.dsp import mel_edges, mel_filters
from urbansound_hf.audio.io import read_audio

NEAR = 72  # of 256 bits; unrelated real clips differ in 87 and more (680 clips, 229,921 pairs), their mean is 128
SEGMENTS, BANDS = 17, 17  # of the coarse spectrogram; their differences are the 16 × 16 bits
LOWEST, HIGHEST = 250.0, 3500.0  # Hz, what a copy that went through 8 kHz still holds
WINDOW_SECONDS = 0.032


class Fingerprints(NamedTuple):
    """Hashes and acoustic fingerprints of every row."""

    names: list[str]
    hashes: np.ndarray  # (clips,) of the float32 samples, hexadecimal; "" for digital silence
    bits: np.ndarray  # (clips, 4) uint64; all zero where the sound changes too little to be recognised


def audio_fingerprints(dataset: datasets.Dataset, num_proc: int | None = None) -> Fingerprints:
    """Hash and acoustic fingerprint of every clip of a prepared data set; a cached, multi-process `map` step."""
    prepared = progress.mapped(
        dataset.select_columns(["audio"]),
        _fingerprint_batch,
        batched=True,
        num_proc=num_proc,
        remove_columns=["audio"],
        desc="Looking for duplicates",
    )
    columns = prepared.with_format("numpy")[:]
    return Fingerprints(columns["name"].tolist(), columns["hash"], columns["bits"].reshape(-1, 4).astype(np.uint64))


def _fingerprint_batch(batch: dict[str, list]) -> dict[str, list]:
    found: dict[str, list] = {"name": [], "hash": [], "bits": []}
    for clip in batch["audio"]:
        waveform, rate = read_audio(clip["bytes"], clip["path"] or "")
        samples = (waveform + 0.0).astype("<f4", copy=False)  # + 0.0: minus zero is zero
        found["name"].append(clip["path"] or "")
        found["hash"].append(hashlib.blake2b(samples.tobytes(), digest_size=16).hexdigest() if samples.any() else "")
        found["bits"].append(acoustic_fingerprint(waveform, rate))
    return found


def acoustic_fingerprint(waveform: np.ndarray, sampling_rate: int) -> np.ndarray:
    """A level-independent sign hash of how the spectrum changes over the clip: `(4,)` uint64, 256 bits.

    The signs of energy differences along time and frequency are those of Haitsma and Kalker, "A highly robust audio
    fingerprinting system" (ISMIR 2002), here over a grid that is stretched to the clip. All are zero where too little
    changes to tell this sound from others.
    """
    level = np.cumsum(np.abs(waveform), dtype=np.float64)
    if not len(level) or not level[-1]:
        return np.zeros(4, np.uint64)
    begin, end = np.searchsorted(level, (0.002 * level[-1], 0.998 * level[-1]))  # leaves out silence added around it
    length = round(WINDOW_SECONDS * sampling_rate)
    sound = np.pad(waveform[begin : end + 1], (0, max(0, length - (end + 1 - begin))))
    count = SEGMENTS * max(8, len(sound) // (SEGMENTS * length) + 1)
    frames = sliding_window_view(sound, length)[np.linspace(0, len(sound) - length, count).astype(int)]
    power = np.abs(np.fft.rfft(frames * np.hanning(length).astype(np.float32))) ** 2  # (count, frequencies)
    bands = mel_filters(length // 2 + 1, mel_edges(BANDS, LOWEST, HIGHEST), sampling_rate, in_mel=True).T
    energy = (power @ bands).reshape(SEGMENTS, -1, BANDS).mean(axis=1)
    change = np.diff(np.diff(np.log(energy + 1e-4 * energy.max() + 1e-20), axis=0), axis=1)  # (16, 16)
    if np.mean(np.abs(change) > 0.02) < 0.25:  # a hum, a constant: most signs would be rounding noise
        return np.zeros(4, np.uint64)
    return np.packbits(change > 0).view(np.uint64)


def audio_leaks(fingerprints: Fingerprints, train: np.ndarray, test: np.ndarray) -> dict[str, Any]:
    """Test clips identical or nearly identical to a training clip: counts, and the names of each pair."""
    names, hashes, bits = fingerprints
    first = {hashes[row]: int(row) for row in reversed(train) if hashes[row]}
    exact = [(int(row), first[hashes[row]]) for row in test if hashes[row] in first]
    others = np.setdiff1d(test, [row for row, _ in exact])
    near = _nearest(bits, np.asarray(train, np.int64), others.astype(np.int64))
    found: dict[str, Any] = {}
    for kind, pairs in (("exact", exact), ("near", near)):
        named = [[names[row] or f"row {row}" for row in pair] for pair in pairs]
        found |= {f"{kind}_duplicates": len(pairs), f"{kind}_duplicate_pairs": named}
    return found


def _nearest(bits: np.ndarray, train: np.ndarray, test: np.ndarray) -> list[tuple[int, int]]:
    """The closest training row of each test row, where fewer than `NEAR` bits differ."""
    train, test = (rows[bits[rows].any(axis=1)] for rows in (train, test))
    pairs: list[tuple[int, int]] = []
    for block in np.split(test, range(64, len(test), 64)) if len(train) else []:
        differ = np.zeros((len(block), len(train)), np.int16)
        for word in range(4):
            differ += np.bitwise_count(bits[block, None, word] ^ bits[None, train, word])
        near = np.flatnonzero(differ.min(axis=1) < NEAR)
        pairs += zip(block[near].tolist(), train[differ[near].argmin(axis=1)].tolist(), strict=True)
    return pairs
