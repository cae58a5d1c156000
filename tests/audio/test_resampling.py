"""Resampling: equal to torchaudio, equal in blocks, bounded in memory, safe in threads."""

import itertools
import subprocess
import sys
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
import torchaudio

from urbansound_hf.audio import resampling
from urbansound_hf.audio.resampling import resample, resample_blocks

TO_16_KHZ = [(rate, 16000) for rate in (1000, 8000, 11025, 22050, 24000, 32000, 44100, 48000, 96000, 192000)]
OTHERS = [(44100, 48000), (48000, 44100), (11025, 22050), (16000, 32000), (16000, 8000), (96000, 22050), (16000, 48000)]
ODD = [(601, 607), (607, 601), (7, 8000), (16000, 7)]
ROUNDED_LENGTH = 9 * 22050 + 51  # 144037 + 3/441 samples at 16 kHz, which torchaudio rounds to 144037 in float32


def noise(samples, seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, samples).astype(np.float32)


def signal(content, samples):
    ramp = np.arange(samples)
    return {
        "noise": noise(samples),
        "sine": np.sin(0.3 * ramp),
        "impulse": (ramp == samples // 2),
        "dc": np.ones(samples),
    }[content].astype(np.float32)


def by_torchaudio(waveform, from_rate, to_rate):
    return torchaudio.functional.resample(torch.from_numpy(waveform), from_rate, to_rate).numpy()


def in_blocks(waveform, from_rate, to_rate, block_samples):
    starts = range(0, len(waveform), block_samples)
    blocks = (waveform[start : start + block_samples] for start in starts)
    return np.concatenate([np.zeros(0, np.float32), *resample_blocks(blocks, from_rate, to_rate)])


def exact(waveform, from_rate, to_rate, outputs):
    """The windowed sinc at the given output samples, in float64, from all of the input."""
    scale = 0.99 * min(from_rate, to_rate)
    time = np.arange(len(waveform)) / from_rate - np.asarray(outputs)[:, None] / to_rate
    window = np.where(abs(time * scale) < 6, np.cos(np.pi * time * scale / 12) ** 2, 0)
    return (np.sinc(time * scale) * window * scale / from_rate) @ waveform.astype(np.float64)


@pytest.fixture
def empty_cache():
    resampling._taps.cache_clear()
    yield
    resampling._taps.cache_clear()


@pytest.mark.parametrize(("from_rate", "to_rate"), TO_16_KHZ + OTHERS + ODD)
def test_equals_torchaudio(from_rate, to_rate):
    tolerance = 1e-6 if from_rate < 100 * to_rate else 1e-5  # float32 sums of up to 30,000 products
    for samples in (1, 2, 7, 100, min(4 * from_rate, 100_000) + 1):
        waveforms = np.stack([signal(content, samples) for content in ("noise", "sine", "impulse", "dc")])
        expected = by_torchaudio(waveforms, from_rate, to_rate)  # in one call, which computes its filter once
        for waveform, theirs in zip(waveforms, expected, strict=True):
            ours = resample(waveform, from_rate, to_rate)
            assert ours.dtype == np.float32 and ours.flags.c_contiguous
            assert len(ours) == len(theirs) == -(-samples * to_rate // from_rate)
            np.testing.assert_allclose(ours, theirs, rtol=0, atol=tolerance, err_msg=f"{samples} samples")


@pytest.mark.parametrize(("from_rate", "to_rate"), [(44099, 16000), (15999, 16000), (16000, 44099), (191999, 192000)])
def test_thousands_of_phases_equal_the_formula(from_rate, to_rate, empty_cache, monkeypatch):
    """torchaudio's own filter takes gigabytes here, and its float32 positions are rounded to about 1e-3."""
    waveform = noise(from_rate // 8)
    outputs = np.unique(np.linspace(0, -(-len(waveform) * to_rate // from_rate) - 1, 40).astype(int))
    expected = exact(waveform, from_rate, to_rate, outputs)
    np.testing.assert_allclose(resample(waveform, from_rate, to_rate)[outputs], expected, rtol=0, atol=5e-3)
    monkeypatch.setattr(resampling, "TAP_DTYPE", np.float64)
    resampling._taps.cache_clear()
    np.testing.assert_allclose(resample(waveform, from_rate, to_rate)[outputs], expected, rtol=0, atol=2e-6)


def test_length_is_exact_where_torchaudio_rounds():
    waveform = noise(ROUNDED_LENGTH)
    ours, theirs = resample(waveform, 22050, 16000), by_torchaudio(waveform, 22050, 16000)
    assert len(ours) == -(-ROUNDED_LENGTH * 16000 // 22050)
    assert len(theirs) == len(ours) - 1, "torchaudio now computes the exact length; simplify this test"
    np.testing.assert_allclose(ours[:-1], theirs, rtol=0, atol=2e-6)


def test_equal_rates_and_empty_input():
    waveform = noise(100)
    assert resample(waveform, 16000, 16000) is waveform
    backwards = resample(waveform.astype(np.float64)[::-1], 16000, 16000)
    assert backwards.dtype == np.float32 and backwards.flags.c_contiguous
    np.testing.assert_array_equal(backwards, waveform[::-1])
    for from_rate in (16000, 22050, 44099):
        for empty in (resample(waveform[:0], from_rate, 16000), in_blocks(waveform[:0], from_rate, 16000, 1)):
            assert empty.shape == (0,) and empty.dtype == np.float32


def test_other_layouts_and_precisions():
    waveform = noise(2000)
    expected = resample(waveform, 22050, 16000)
    spaced = np.repeat(waveform, 2)[::2]
    read_only = waveform.copy()
    read_only.flags.writeable = False
    for same in (spaced, read_only, waveform.astype(np.float64), waveform.astype(">f4")):
        np.testing.assert_array_equal(resample(same, np.int64(22050), 16000), expected)


@pytest.mark.parametrize(("from_rate", "to_rate"), [*TO_16_KHZ, (44100, 48000), (44099, 16000), (7, 16000), (16000, 7)])
def test_blocks_equal_the_whole(from_rate, to_rate):
    waveform = noise(min(2 * from_rate + 13, 100_003))
    whole = resample(waveform, from_rate, to_rate)
    for block_samples in (997, 4096, from_rate, 10**9):
        blocks = in_blocks(waveform, from_rate, to_rate, block_samples)
        assert len(blocks) == len(whole)
        np.testing.assert_allclose(blocks, whole, rtol=0, atol=1e-6, err_msg=f"blocks of {block_samples}")


@pytest.mark.parametrize("from_rate", [8000, 16000, 22050, 48000])
def test_blocks_of_any_size_share_one_buffer(from_rate):
    waveform, rng = noise(6007), np.random.default_rng(1)
    whole = resample(waveform, from_rate, 16000)
    np.testing.assert_allclose(in_blocks(waveform, from_rate, 16000, 1), whole, rtol=0, atol=1e-6)

    def blocks():
        buffer, position = np.empty(1500, np.float32), 0
        while position < len(waveform):
            samples = min(int(rng.choice([0, 1, 2, 31, 1500])), len(waveform) - position)
            buffer[:samples] = waveform[position : position + samples]
            yield buffer[:samples]
            buffer[:] = np.nan  # what is still needed has been copied
            position += samples

    np.testing.assert_allclose(
        np.concatenate(list(resample_blocks(blocks(), from_rate, 16000))), whole, rtol=0, atol=1e-6
    )


def test_threads_share_the_cache(empty_cache):
    pairs = [(rate, 16000) for rate in (8000, 11025, 22050, 44099, 48000)] * 4
    waveform = noise(20000)
    expected = {pair: resample(waveform, *pair) for pair in set(pairs)}
    resampling._taps.cache_clear()
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda pair: resample(waveform, *pair), pairs))
    for pair, result in zip(pairs, results, strict=True):
        np.testing.assert_array_equal(result, expected[pair])


def peak_bytes(call):
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_first_call_for_an_odd_rate_takes_little_memory(empty_cache):
    assert peak_bytes(lambda: resample(noise(44099), 44099, 16000)) < 16 * 2**20  # all phases by all input: 2.8 GB
    used = resampling._taps.cache_info().currsize
    resample(noise(10), 44097, 16000)  # 4 samples of output need one group of taps
    assert resampling._taps.cache_info().currsize == used + 1


@pytest.mark.parametrize("from_rate", [22050, 44099])
def test_memory_of_blocks_is_bounded_by_the_block(from_rate):
    block = noise(from_rate)

    def many():
        for _ in resample_blocks(itertools.repeat(block, 20), from_rate, 16000):
            pass

    many()  # the taps are in the cache afterwards
    assert peak_bytes(many) < 5 * block.nbytes


def test_errors_name_the_rule_and_what_was_found():
    for rate in (0, -16000, 22050.0, "16000", None):
        for call in (
            lambda rate=rate: resample(noise(9), rate, 16000),
            lambda rate=rate: in_blocks(noise(9), 16000, rate, 9),
        ):
            with pytest.raises(ValueError, match=r"positive integer in Hz, found") as error:
                call()
            assert repr(rate) in str(error.value)
    with pytest.raises(ValueError, match=r"\(samples,\), found \(2, 9\)"):
        resample(np.zeros((2, 9), np.float32), 22050, 16000)
    for call in (lambda block: resample(block, 22050, 16000), lambda block: in_blocks(block, 22050, 16000, 9)):
        with pytest.raises(TypeError, match=r"floating point, full scale 1\.0; found int16"):
            call(np.zeros(9, np.int16))


def test_import_needs_numpy_only():
    code = "import sys, runpy; runpy.run_path(sys.argv[1]); print([m for m in ('torch', 'scipy') if m in sys.modules])"
    command = [sys.executable, "-c", code, str(Path(resampling.__file__))]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() == "[]"
