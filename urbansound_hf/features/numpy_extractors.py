"""The feature extractors of the model families in numpy: a model that runs without torch needs no Transformers either.

Each is made of the checkpoint's `preprocessor_config.json`, and gives what the extractor of that name in Transformers,
or in the modeling file of a family of ours, gives for a single clip (to 1e-4 in the scores; the export checks it).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
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
        self.compute: Callable[[np.ndarray], Features] = EXTRACTORS[name](config)

    def __call__(self, waveform: np.ndarray, **_: Any) -> Features:
        """`(samples,)` float32 at `sampling_rate` as the model's inputs, with a batch axis of 1.

        Raises ValueError if the clip is too short for a single frame.
        """
        features = self.compute(np.asarray(waveform, np.float32))
        return {
            name: values[None].astype(np.int32 if values.dtype.kind == "i" else np.float32, copy=False)
            for name, values in features.items()
        }


def _spectrum(samples: np.ndarray, window: np.ndarray, hop: int, n_fft: int = 0) -> np.ndarray:
    """The spectrum `(frames, bins)` complex64 of `(samples,)`; its frames lie wholly within."""
    if len(samples) < len(window):
        raise ValueError(f"a frame has {len(window)} samples")
    frames = np.lib.stride_tricks.sliding_window_view(samples, len(window))[::hop]
    return np.fft.rfft(frames * window, n_fft or len(window))


def _power(samples: np.ndarray, window: np.ndarray, hop: int, pad: Literal["reflect", "constant"]) -> np.ndarray:
    """The power `(frames, bins)` of frames centred on 0, `hop`, …"""
    spectrum = _spectrum(np.pad(samples, len(window) // 2, mode=pad), window, hop)
    return spectrum.real**2 + spectrum.imag**2


def _periodic(window: Callable[[int], np.ndarray], samples: int) -> np.ndarray:
    return window(samples + 1)[:-1].astype(np.float32)


def _decibels(power: np.ndarray, below_peak: float = np.inf) -> np.ndarray:
    """In dB, at least -100 and at most `below_peak` below the highest."""
    levels = 10 * np.log10(np.maximum(power, 1e-10))
    return np.maximum(levels, levels.max() - below_peak)


def _wav2vec2(config: Config) -> Callable[[np.ndarray], Features]:
    def extract(samples: np.ndarray) -> Features:
        mask = {"attention_mask": np.ones(len(samples), np.int32)} if config["return_attention_mask"] else {}
        if config["do_normalize"] and len(samples):
            samples = (samples - samples.mean()) / np.sqrt(samples.var() + 1e-7)
        return {"input_values": samples, **mask}

    return extract


def _whisper(config: Config) -> Callable[[np.ndarray], Features]:
    rate, window = config["sampling_rate"], _periodic(np.hanning, config["n_fft"])
    length = round(config["chunk_length"] * rate)
    edges = mel_edges(config["feature_size"], 0, 8000, "slaney")
    filters = mel_filters(config["n_fft"] // 2 + 1, edges, rate, area=True)

    def extract(samples: np.ndarray) -> Features:
        filled = np.pad(samples[:length], (0, max(length - len(samples), 0)))
        power = _power(filled, window, config["hop_length"], "reflect")[:-1]
        return {"input_features": (_decibels(filters @ power.T, 80.0) / 10 + 4) / 4}  # (bands, frames)

    return extract


def _ast(config: Config) -> Callable[[np.ndarray], Features]:
    rate = config["sampling_rate"]
    window = np.hanning(rate // 40)
    filters = mel_filters(257, mel_edges(config["num_mel_bins"], 20, rate / 2), rate, in_mel=True).T
    mean, deviation = (config["mean"], 2 * config["std"]) if config["do_normalize"] else (0, 1)

    def extract(samples: np.ndarray) -> Features:
        """Kaldi's log-mel spectrogram: each frame without its mean, with pre-emphasis."""
        if len(samples) < len(window):
            raise ValueError(f"a frame has {len(window)} samples")
        frames = np.lib.stride_tricks.sliding_window_view(samples, len(window))[:: rate // 100]
        frames = frames - frames.mean(axis=1, keepdims=True)
        frames = frames - 0.97 * np.concatenate([frames[:, :1], frames[:, :-1]], axis=1)
        power = np.abs(np.fft.rfft(frames * window, 512)) ** 2
        levels = np.log(np.maximum(power @ filters, KALDI_FLOOR))[: config["max_length"]]
        filled = np.pad(levels, ((0, config["max_length"] - len(levels)), (0, 0)))
        return {"input_values": (filled - mean) / deviation}  # (frames, bands)

    return extract


def _clap(config: Config) -> Callable[[np.ndarray], Features]:
    rate, n_fft, length = config["sampling_rate"], config["fft_window_size"], config["nb_max_samples"]
    edges = mel_edges(config["feature_size"], config["frequency_min"], config["frequency_max"], "slaney")
    window, filters = _periodic(np.hanning, n_fft), mel_filters(n_fft // 2 + 1, edges, rate, area=True)

    def extract(samples: np.ndarray) -> Features:
        repeated = np.tile(samples[:length], length // max(len(samples[:length]), 1))
        filled = np.pad(repeated, (0, length - len(repeated)))
        levels = _decibels(_power(filled, window, config["hop_length"], "reflect") @ filters.T)
        return {"input_features": levels[None]}  # (1, frames, bands)

    return extract


def _cnn(config: Config) -> Callable[[np.ndarray], Features]:
    rate, n_fft, n_mels, frames = (config[name] for name in ("sampling_rate", "n_fft", "n_mels", "num_frames"))
    filters = mel_filters(n_fft // 2 + 1, mel_edges(n_mels, 0, rate / 2, "slaney"), rate, area=True)
    window, axis = _periodic(np.hanning, n_fft), 1 if config["scaling"] == "per_coefficient" else None
    cosines = np.cos(np.pi / n_mels * np.outer(np.arange(config["n_mfcc"]), np.arange(n_mels) + 0.5))
    cosines *= np.where(np.arange(config["n_mfcc"]) == 0, n_mels**-0.5, (2 / n_mels) ** 0.5)[:, None]  # DCT-II

    def extract(samples: np.ndarray) -> Features:
        power = _power(samples[: frames * config["hop_length"]], window, config["hop_length"], "constant")
        levels = _decibels(filters @ power.T, 80.0)  # (bands, frames)
        levels = (cosines @ levels if config["feature"] == "mfcc" else levels)[:, :frames]
        if config["scaling"] != "none":
            deviation = np.maximum(levels.std(axis=axis, keepdims=True), 1e-3)
            levels = (levels - levels.mean(axis=axis, keepdims=True)) / deviation
        return {"input_features": np.pad(levels, ((0, 0), (0, frames - levels.shape[1])))}

    return extract


def _yamnet(config: Config) -> Callable[[np.ndarray], Features]:
    filters = mel_filters(257, mel_edges(config["feature_size"], 125, 7500), config["sampling_rate"], in_mel=True).T
    window = _periodic(np.hanning, 400)

    def extract(samples: np.ndarray) -> Features:
        if config["peak_normalize"] and samples.any():
            samples = samples / np.abs(samples).max()
        hops = -(-max(len(samples) - 15_600, 0) // 7680)  # whole patches of 96 frames, 48 apart
        padded = np.pad(samples, (0, 15_600 + hops * 7680 - len(samples)))
        return {"input_features": np.log(np.abs(_spectrum(padded, window, 160, 512)) @ filters + 0.001)}

    return extract


EXTRACTORS: dict[str, Callable[[Config], Callable[[np.ndarray], Features]]] = {
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
