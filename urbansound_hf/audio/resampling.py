"""Sampling-rate conversion in numpy, equal to `torchaudio.functional.resample`, of a recording at once or in blocks.

The filter is a Hann-windowed sinc. With the two rates reduced to `orig : new`, output sample `q` is a dot product of
the input around position `q * orig / new` with taps that depend only on the phase, `q % new`. Neighbouring phases read
almost the same input, so the taps of 32 phases form one small dense matrix, and one matrix product computes these
phases in every period of the recording. The method is that of Julius O. Smith, "Digital Audio Resampling",
https://ccrma.stanford.edu/~jos/resample/; the constants are the defaults of `torchaudio.functional.resample`.
"""

import math
from collections.abc import Iterable, Iterator
from functools import lru_cache

import numpy as np

ZERO_CROSSINGS = 6  # of the sinc on each side; torchaudio's lowpass_filter_width
ROLLOFF = 0.99  # cutoff as a fraction of the lower Nyquist frequency; torchaudio's rolloff
# torchaudio computes the positions of the taps in the precision of the waveform. In float32, full-scale noise from
# 22.05 to 16 kHz equals the stock pipeline's to 2e-7; in float64, it equals the exact filter, 3e-5 from the stock one.
TAP_DTYPE = np.float32
DESCRIPTION = f"Hann-windowed sinc, width {ZERO_CROSSINGS}, rolloff {ROLLOFF:g} (torchaudio's default)"  # of receipts
MAX_GROUP_PHASES = 32  # fewer phases spend the time on calls, more phases spend it on zero taps
MAX_GROUP_SPAN = 4096  # input samples between the phases of a group; keeps a matrix small at extreme ratios
TAP_MATRICES = 1024  # kept, of at most 66 kB each for rates up to 192 kHz


def resample(waveform: np.ndarray, from_rate: int, to_rate: int) -> np.ndarray:
    """Convert a `(samples,)` floating-point waveform from one sampling rate to another, positive integers in Hz.

    Returns `(ceil(samples * to_rate / from_rate),)` float32, contiguous; with equal rates, a contiguous waveform of
    float32 is returned as it is, not copied. Raises TypeError or ValueError for a waveform or a rate of another kind.
    """
    filter_ = _PolyphaseFilter(from_rate, to_rate)
    waveform = _check_waveform(waveform)
    if from_rate == to_rate:
        return waveform
    padded = np.pad(waveform, (filter_.left_padding, filter_.right_padding))
    return filter_.apply(padded, filter_.output_length(len(waveform)))


def resample_blocks(blocks: Iterable[np.ndarray], from_rate: int, to_rate: int) -> Iterator[np.ndarray]:
    """Convert one recording in blocks `(samples,)` of any size; rates and errors are those of `resample`.

    The concatenated output equals `resample` of the concatenated input to 1e-6. A block of output, `(new_samples,)`
    float32, holds what the input so far completes, in whole periods of the filter, and may be empty; a period is at
    most one second long for rates of 1 kHz and more, which bounds the memory.
    """
    filter_ = _PolyphaseFilter(from_rate, to_rate)
    pending = np.zeros(filter_.left_padding, np.float32)  # input that later output reads
    samples_in = samples_out = 0
    for block in map(_check_waveform, blocks):
        if from_rate == to_rate:
            yield block.copy()
            continue
        samples_in += len(block)
        pending = np.concatenate([pending, block])
        periods = max(0, (len(pending) - 2 * filter_.left_padding - 2) // filter_.period_in)
        output = filter_.apply(pending, periods * filter_.period_out)
        pending = pending[periods * filter_.period_in :].copy()  # a view would keep all of it
        samples_out += len(output)
        yield output
    if from_rate != to_rate:
        padded = np.pad(pending, (0, filter_.right_padding))
        yield filter_.apply(padded, filter_.output_length(samples_in) - samples_out)


class _PolyphaseFilter:
    """The filter of a pair of rates, reduced to `orig : new`, for input that is padded with zeros on both sides."""

    def __init__(self, from_rate: int, to_rate: int) -> None:
        for rate in (from_rate, to_rate):
            if not isinstance(rate, int | np.integer) or rate <= 0:
                raise ValueError(f"A sampling rate is a positive integer in Hz, found {rate!r}")
        divisor = math.gcd(from_rate, to_rate)
        self.orig, self.new = orig, new = int(from_rate) // divisor, int(to_rate) // divisor
        self.group = max(1, min(MAX_GROUP_PHASES, MAX_GROUP_SPAN * new // orig))  # phases in one matrix
        self.left_padding = math.ceil(ZERO_CROSSINGS / ROLLOFF * max(orig, new) / new)  # half the filter, in input
        self.right_padding = self.left_padding + math.ceil(self.group * orig / new) + 3  # the last group reads on
        # Periods are joined until the input of a group is no longer than one: BLAS reads a view whose rows do not
        # overlap without a copy. With few phases, periods are also joined to fill the groups.
        repeats = math.ceil(((self.group - 1) * orig // new + 2 * self.left_padding + 3) / orig)
        if new < self.group:
            fill = self.group // math.gcd(new, self.group)
            repeats = math.ceil(repeats / fill) * fill
        self.period_in, self.period_out = repeats * orig, repeats * new

    def output_length(self, samples: int) -> int:
        return -(-samples * self.new // self.orig)  # rounded up

    def apply(self, padded: np.ndarray, output_samples: int) -> np.ndarray:
        """First `output_samples` of the output, float32, of padded input that starts at a period."""
        periods = math.ceil(output_samples / self.period_out)
        output = np.empty((periods, self.period_out), np.float32)
        for first in range(0, min(self.period_out, output_samples), self.group):
            last = min(first + self.group, self.period_out)
            taps = _taps(self.orig, self.new, self.left_padding, first, last)  # (inputs, phases)
            rows = math.ceil((output_samples - first) / self.period_out)  # the last period may be incomplete
            offset, strides = 4 * (first * self.orig // self.new), (4 * self.period_in, 4)  # bytes
            inputs = np.ndarray((rows, len(taps)), np.float32, padded, offset, strides)  # a view, bounds checked
            with np.errstate(over="ignore", invalid="ignore"):  # infinite samples are the caller's to refuse
                np.matmul(inputs, taps, out=output[:rows, first:last])  # (rows, phases)
        return output.reshape(-1)[:output_samples]


@lru_cache(maxsize=TAP_MATRICES)
def _taps(orig: int, new: int, left_padding: int, first: int, last: int) -> np.ndarray:
    """Taps of the phases `first` to `last - 1`, `(inputs, phases)` float32.

    Only the input around these phases has a row; torchaudio's rows for all of it take 2.8 GB at 44,099 Hz.
    """
    start, stop = first * orig // new - left_padding, (last - 1) * orig // new + left_padding + 2
    phases = np.arange(first, last)
    inputs = np.arange(start, stop)[:, None] - phases // new * orig  # joined periods have equal taps
    base = ROLLOFF * min(orig, new)
    # In torchaudio's order of operations, so that the positions are rounded as there.
    position = inputs.astype(TAP_DTYPE) / orig + (-phases % -new).astype(TAP_DTYPE) / new
    crossings = np.clip(position * base, -ZERO_CROSSINGS, ZERO_CROSSINGS)  # the window is zero at both ends
    window = np.cos(crossings * math.pi / ZERO_CROSSINGS / 2) ** 2
    return (np.sinc(crossings) * (window * (base / orig))).astype(np.float32)


def _check_waveform(waveform: np.ndarray) -> np.ndarray:
    waveform = np.asarray(waveform)
    if waveform.ndim != 1:
        raise ValueError(f"A waveform has the shape (samples,), found {waveform.shape}; average or select the channels")
    if not np.issubdtype(waveform.dtype, np.floating):
        raise TypeError(f"A waveform is floating point, full scale 1.0; found {waveform.dtype}, scale it to float32")
    return np.ascontiguousarray(waveform, np.float32)
