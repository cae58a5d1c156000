"""Live sound: a microphone or raw PCM from a pipe, classified window by window while it comes.

A pipe is read only as fast as the model works; of a microphone, the oldest sound beyond `BACKLOG_SECONDS` is dropped.
"""

from __future__ import annotations

import queue
import sys
import time
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from urbansound_hf import progress
from urbansound_hf.audio.io import HIGHEST_RATE, LOWEST_RATE, cut_windows
from urbansound_hf.audio.resampling import resample_blocks
from urbansound_hf.audio.spectrogram import loudness
from urbansound_hf.errors import UserError
from urbansound_hf.inference.formats import LIVE
from urbansound_hf.inference.inputs import Window
from urbansound_hf.inference.output import Prediction

if TYPE_CHECKING:
    from urbansound_hf.inference.classifier import SoundClassifier

BLOCK_SECONDS = 0.1  # of sound that comes at a time
NO_MICROPHONE, LIST_MICROPHONES = "no microphone can be opened ({})", "see: python -m sounddevice"
BACKLOG_SECONDS = 10.0  # of sound from a microphone that waits for the model


def listen(
    classifier: SoundClassifier,
    blocks: Iterable[np.ndarray],
    sampling_rate: int,
    top_k: int = 5,
    window_seconds: float | None = None,
    hop_seconds: float | None = None,
) -> Iterator[Prediction]:
    """Classifies sound that comes in blocks; each window as soon as its last sample is there.

    Args:
        classifier: the model.
        blocks: `(samples,)` float32 each, full scale 1.0.
        sampling_rate: of the blocks, in Hz.
        top_k: labels to keep for each window.
        window_seconds, hop_seconds: as for `SoundClassifier.classify_many`.

    Yields:
        the prediction of each window; its times are seconds from the first sample.

    Raises:
        UserError: the window or the hop is impossible for this model, or the sampling rate for sound.
        AudioError: the sound ends before a window that the model accepts.

    Examples:
        >>> model = ush.SoundClassifier.from_pretrained("outputs/base/fold10")
        >>> sound = ush.load_audio("long.wav")
        >>> blocks = (sound[start : start + 1600] for start in range(0, len(sound), 1600))  # 0.1 s each
        >>> [prediction.end for prediction in ush.listen(model, blocks, 16_000)]
        [4.0, 6.0, 8.0]
    """
    if not LOWEST_RATE <= sampling_rate <= HIGHEST_RATE:
        what = f"a sampling rate of {sampling_rate:,} Hz is none of sound"
        raise UserError(what, "--raw", f"give {LOWEST_RATE:,} to {HIGHEST_RATE:,} Hz, such as 16000")
    window, hop = classifier.window_samples(window_seconds, hop_seconds)
    length, step = window / classifier.sampling_rate, hop / classifier.sampling_rate
    progress.say(f"listening: every {step:g} s, the {length:g} s before are classified")
    resampled = resample_blocks(blocks, sampling_rate, classifier.sampling_rate)
    for number, (start, end, waveform) in enumerate(cut_windows(resampled, window, hop)):
        started = time.perf_counter()
        prediction = score_window(classifier, start, end, waveform, top_k)
        if number == 1:  # the first one also warms the model up
            latency = time.perf_counter() - started
            progress.say(f"latency: {1000 * latency:.0f} ms from the last sample of a window to its scores")
        yield prediction


def score_window(classifier: SoundClassifier, start: int, end: int, waveform: np.ndarray, top_k: int) -> Prediction:
    """The prediction of a `(samples,)` window from sample `start` to `end` of live sound, at the model's rate."""
    window = Window(0, LIVE, start, end, loudness(waveform))
    return classifier.prediction(window, classifier.probabilities([waveform])[0], top_k)


def raw_pcm(stream: BinaryIO, sampling_rate: int) -> Iterator[np.ndarray]:
    """Blocks `(samples,)` float32 of 16-bit little-endian mono PCM, as they come, until the stream ends."""
    size, rest = 2 * max(1, round(BLOCK_SECONDS * sampling_rate)), b""
    read = getattr(stream, "read1", stream.read)  # what is there, without waiting for more
    while content := read(size):
        content = rest + content
        whole = len(content) // 2 * 2
        rest = content[whole:]
        yield np.frombuffer(content[:whole], "<i2").astype(np.float32) / 32768


def microphone(device: str | int | None = None) -> tuple[int, Iterator[np.ndarray]]:
    """A microphone of PortAudio, by name or number as `python -m sounddevice` lists them. Raises UserError.

    Returns:
        the sampling rate of the device in Hz, and endless blocks `(samples,)` float32, which open it.
    """
    try:
        import sounddevice as library
    except ImportError:
        raise UserError("a microphone needs sounddevice", "--microphone", "pip install 'urbansound-hf[live]'") from None
    except OSError:  # the package is there, and the library is not
        fix = "apt-get install libportaudio2" if sys.platform == "linux" else "install PortAudio"
        raise UserError("sounddevice does not find the PortAudio library", "--microphone", fix) from None
    try:
        rate = int(library.query_devices(device, "input")["default_samplerate"])
    except (ValueError, library.PortAudioError) as error:
        raise UserError(NO_MICROPHONE.format(error), "--microphone", LIST_MICROPHONES) from None
    return rate, _recorded(library, device, rate)


def _recorded(library: Any, device: str | int | None, rate: int) -> Iterator[np.ndarray]:
    waiting: queue.Queue[np.ndarray] = queue.Queue(round(BACKLOG_SECONDS / BLOCK_SECONDS))
    dropped = 0

    def received(samples: np.ndarray, *_: Any) -> None:
        nonlocal dropped
        if waiting.full():
            waiting.get_nowait()
            dropped += 1
        waiting.put_nowait(samples[:, 0].copy())

    size = round(BLOCK_SECONDS * rate)
    try:
        with library.InputStream(rate, size, device, channels=1, dtype="float32", callback=received):
            while True:
                if dropped:
                    progress.say(f"{dropped * BLOCK_SECONDS:.1f} s were dropped: the model is slower than the sound")
                    dropped = 0
                yield waiting.get()
    except library.PortAudioError as error:
        raise UserError(NO_MICROPHONE.format(error), "--microphone", LIST_MICROPHONES) from None
