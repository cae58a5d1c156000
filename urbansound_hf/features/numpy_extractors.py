"""The feature extractors of the model families in numpy: a model that runs without torch needs no Transformers either.

Each is made of the checkpoint's `preprocessor_config.json`, and gives what the extractor of that name in Transformers,
or in the modeling file of a family of ours, gives for a single clip (to 1e-4 in the scores; the export checks it).
"""

from collections.abc import Callable, Mapping
from functools import lru_cache, partial
from typing import Any, Literal

import numpy as np

from urbansound_hf.audio.dsp import mel_edges, mel_filters
from urbansound_hf.errors import UserError
from urbansound_hf.features.extract import Features

Config = Mapping[str, Any]
KALDI_FLOOR = 1.1920929e-07  # the precision of single numbers


class NumpyExtractor:
    """A feature extractor of one clip at a time, by the content of `preprocessor_config.json`.

    Raises UserError if there is none of that name here, or not with these settings.
    """

    def __init__(self, config: Config) -> None:
        name = config.get("feature_extractor_type", "")
        if name not in EXTRACTORS or any(config.get(key) != value for key, value in SETTINGS.get(name, {}).items()):
            what = f"{name or 'the feature extractor'} with its settings cannot be computed without Transformers"
            raise UserError(what, "preprocessor_config.json", f"those that can: {', '.join(EXTRACTORS)}")
        self.sampling_rate: int = config["sampling_rate"]
        self.compute = partial(EXTRACTORS[name], config)

    def __call__(self, waveform: np.ndarray, **_: Any) -> Features:
        """`(samples,)` float32 at `sampling_rate` as the model's inputs, with a batch axis of 1.

        Raises ValueError if the clip is too short for a single frame.
        """
        features = self.compute(np.asarray(waveform, np.float32))
        kinds = {name: np.int32 if values.dtype.kind == "i" else np.float32 for name, values in features.items()}
        return {name: values[None].astype(kinds[name], copy=False) for name, values in features.items()}


def _frames(samples: np.ndarray, length: int, hop: int) -> np.ndarray:
    """The frames `(frames, length)` that lie wholly within `(samples,)`."""
    if len(samples) < length:
        raise ValueError(f"a frame has {length} samples")
    return np.lib.stride_tricks.sliding_window_view(samples, length)[::hop]


def _power(samples: np.ndarray, n_fft: int, hop: int, pad: Literal["reflect", "constant"]) -> np.ndarray:
    """The power `(frames, bins)` of frames centred on 0, `hop`, …"""
    padded = np.pad(samples, n_fft // 2, mode=pad)
    spectrum = np.fft.rfft(_frames(padded, n_fft, hop) * _periodic_hann(n_fft))
    return spectrum.real**2 + spectrum.imag**2


@lru_cache
def _periodic_hann(samples: int) -> np.ndarray:
    return np.hanning(samples + 1)[:-1].astype(np.float32)


@lru_cache
def _filters(bins: int, n_mels: int, low: float, high: float, rate: int, slaney: bool) -> np.ndarray:
    """Mel filters `(n_mels, bins)`, of Slaney's scale and area, or of HTK's scale with sides straight in mel."""
    edges = mel_edges(n_mels, low, high, "slaney" if slaney else "htk")
    return mel_filters(bins, edges, rate, in_mel=not slaney, area=slaney)


def _decibels(power: np.ndarray, below_peak: float = np.inf) -> np.ndarray:
    """In dB, at least -100 and at most `below_peak` below the highest."""
    levels = 10 * np.log10(np.maximum(power, 1e-10))
    return np.maximum(levels, levels.max() - below_peak)


def _wav2vec2(config: Config, samples: np.ndarray) -> Features:
    mask = {"attention_mask": np.ones(len(samples), np.int32)} if config["return_attention_mask"] else {}
    if config["do_normalize"] and len(samples):
        samples = (samples - samples.mean()) / np.sqrt(samples.var() + 1e-7)
    return {"input_values": samples, **mask}


def _whisper(config: Config, samples: np.ndarray) -> Features:
    rate, n_fft = config["sampling_rate"], config["n_fft"]
    length = round(config["chunk_length"] * rate)
    filled = np.pad(samples[:length], (0, max(length - len(samples), 0)))
    power = _power(filled, n_fft, config["hop_length"], "reflect")[:-1]
    levels = _decibels(_filters(n_fft // 2 + 1, config["feature_size"], 0, 8000, rate, True) @ power.T, 80.0)
    return {"input_features": (levels / 10 + 4) / 4}  # (bands, frames)


def _ast(config: Config, samples: np.ndarray) -> Features:
    """Kaldi's log-mel spectrogram: each frame without its mean, with pre-emphasis."""
    rate, most = config["sampling_rate"], config["max_length"]
    frames = _frames(samples, rate // 40, rate // 100)
    frames = frames - frames.mean(axis=1, keepdims=True)
    frames = frames - 0.97 * np.concatenate([frames[:, :1], frames[:, :-1]], axis=1)
    power = np.abs(np.fft.rfft(frames * np.hanning(rate // 40), 512)) ** 2
    filters = _filters(257, config["num_mel_bins"], 20, rate / 2, rate, False)
    levels = np.log(np.maximum(power @ filters.T, KALDI_FLOOR))[:most]
    mean, deviation = (config["mean"], 2 * config["std"]) if config["do_normalize"] else (0, 1)
    return {"input_values": (np.pad(levels, ((0, most - len(levels)), (0, 0))) - mean) / deviation}  # (frames, bands)


def _clap(config: Config, samples: np.ndarray) -> Features:
    n_fft, length = config["fft_window_size"], config["nb_max_samples"]
    bands = config["feature_size"], config["frequency_min"], config["frequency_max"]
    repeated = np.tile(samples[:length], length // max(len(samples[:length]), 1))
    power = _power(np.pad(repeated, (0, length - len(repeated))), n_fft, config["hop_length"], "reflect")
    filters = _filters(n_fft // 2 + 1, *bands, config["sampling_rate"], True)
    return {"input_features": _decibels(power @ filters.T)[None]}  # (1, frames, bands)


def _cnn(config: Config, samples: np.ndarray) -> Features:
    rate, n_fft, n_mels, frames = (config[name] for name in ("sampling_rate", "n_fft", "n_mels", "num_frames"))
    power = _power(samples[: frames * config["hop_length"]], n_fft, config["hop_length"], "constant")
    levels = _decibels(_filters(n_fft // 2 + 1, n_mels, 0, rate / 2, rate, True) @ power.T, 80.0)  # (bands, frames)
    if config["feature"] == "mfcc":
        numbers = np.arange(config["n_mfcc"])
        cosines = np.cos(np.pi / n_mels * np.outer(numbers, np.arange(n_mels) + 0.5))  # DCT-II
        levels = cosines * np.where(numbers == 0, n_mels**-0.5, (2 / n_mels) ** 0.5)[:, None] @ levels
    levels = levels[:, :frames]
    if config["scaling"] != "none":
        axis = 1 if config["scaling"] == "per_coefficient" else None
        deviation = np.maximum(levels.std(axis=axis, keepdims=True), 1e-3)
        levels = (levels - levels.mean(axis=axis, keepdims=True)) / deviation
    return {"input_features": np.pad(levels, ((0, 0), (0, frames - levels.shape[1])))}


def _yamnet(config: Config, samples: np.ndarray) -> Features:
    if config["peak_normalize"] and samples.any():
        samples = samples / np.abs(samples).max()
    hops = -(-max(len(samples) - 15_600, 0) // 7680)  # whole patches of 96 frames, 48 apart
    padded = np.pad(samples, (0, 15_600 + hops * 7680 - len(samples)))
    spectrum = np.abs(np.fft.rfft(_frames(padded, 400, 160) * _periodic_hann(400), 512))
    filters = _filters(257, config["feature_size"], 125, 7500, config["sampling_rate"], False)
    return {"input_features": np.log(spectrum @ filters.T + 0.001)}


EXTRACTORS: dict[str, Callable[[Config, np.ndarray], Features]] = {
    "Wav2Vec2FeatureExtractor": _wav2vec2,
    "WhisperFeatureExtractor": _whisper,
    "ASTFeatureExtractor": _ast,
    "ClapAudioFeatureExtractor": _clap,
    "CnnFeatureExtractor": _cnn,
    "YamnetFeatureExtractor": _yamnet,
}
"""By the name of the class in `preprocessor_config.json`."""
SETTINGS: dict[str, dict[str, Any]] = {
    "WhisperFeatureExtractor": {"dither": 0.0, "return_attention_mask": False},
    "ASTFeatureExtractor": {"sampling_rate": 16_000},
    "ClapAudioFeatureExtractor": {"truncation": "rand_trunc", "padding": "repeatpad"},
}
"""The only values of some settings that are computed here."""
