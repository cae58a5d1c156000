"""Silencing finds the part of a sound that a model was made to listen to, whatever its family."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import PretrainedConfig, PreTrainedModel, SequenceFeatureExtractor
from transformers.modeling_outputs import SequenceClassifierOutput

from tests.helpers import tiny
from urbansound_hf.audio.io import AudioError
from urbansound_hf.inference import occlusion
from urbansound_hf.inference.classifier import SoundClassifier
from urbansound_hf.inference.torch_backend import TorchBackend

RATE = 16_000


class Ear(PreTrainedModel):
    """Hears one thing: how much of a 1,000 Hz tone there is, against what else there is."""

    config_class = PretrainedConfig

    def __init__(self, config: PretrainedConfig) -> None:
        super().__init__(config)
        self.weight = torch.nn.Parameter(torch.ones(1))
        self.post_init()

    def forward(self, input_values: torch.Tensor) -> SequenceClassifierOutput:
        power = torch.fft.rfft(input_values).abs() ** 2
        hertz = torch.fft.rfftfreq(input_values.shape[1], 1 / RATE)
        tone = power[:, (hertz > 900) & (hertz < 1100)].sum(1)
        share = self.weight * tone / (power.sum(1) + 1e-9)
        return SequenceClassifierOutput(logits=torch.stack([4 * share, 2 - 4 * share], 1))


class Plain(SequenceFeatureExtractor):
    model_input_names = ["input_values"]

    def __init__(self) -> None:
        super().__init__(feature_size=1, sampling_rate=RATE, padding_value=0.0)

    def __call__(self, raw_speech: object, sampling_rate: int | None = None, **kwargs: object) -> dict:
        return {"input_values": np.atleast_2d(np.asarray(raw_speech, np.float32))}


@pytest.fixture(scope="module")
def ear() -> SoundClassifier:
    config = PretrainedConfig(id2label={0: "tone", 1: "other"}, label2id={"tone": 0, "other": 1})
    return SoundClassifier(TorchBackend(Ear(config), Plain(), "cpu"))


def beep(start: float, end: float, seconds: float = 2.0) -> np.ndarray:
    time = np.arange(round(seconds * RATE)) / RATE
    noise = 0.01 * np.random.default_rng(0).standard_normal(len(time))
    return (0.5 * np.sin(2 * np.pi * 1000 * time) * ((time >= start) & (time < end)) + noise).astype(np.float32)


@pytest.mark.parametrize("start", [0.25, 1.5])
def test_the_tile_that_carried_the_decision_is_found(ear, start):
    found = occlusion.occlusion(ear, beep(start, start + 0.12))
    band, step = np.unravel_index(found.evidence.argmax(), found.evidence.shape)
    assert found.label == "tone"
    assert found.times[step] <= start + 0.06 <= found.times[step + 1]
    assert found.hertz[band] < 1000 < found.hertz[band + 1]
    assert found.without[band, step] < found.score - 0.3
    others = np.delete(found.evidence.ravel(), found.evidence.argmax())
    assert np.abs(others).max() < found.evidence.max() / 2, "no other tile says as much"
    assert found.sentence().startswith(f"tone {found.score:.4f}: the most important tile is {found.times[step]:.2f}–")


def test_where_nothing_matters_the_sentence_says_so(ear):
    found = occlusion.occlusion(ear, np.zeros(RATE, np.float32))
    assert found.label == "other" and np.abs(found.evidence).max() < occlusion.LITTLE
    assert "no single tile matters" in found.sentence()


def test_progress_is_told_for_each_band(ear):
    told = []
    occlusion.occlusion(ear, beep(0.2, 0.3, 0.5), track=lambda bands: (told.append(band) or band for band in bands))
    assert told == list(range(occlusion.BANDS))


@pytest.mark.parametrize("family", ["wav2vec2", "whisper", "ast", "yamnet"])
def test_any_family_can_be_asked(tmp_path, family):
    classifier = SoundClassifier.from_pretrained(tiny.save(family, tmp_path), device="cpu")
    clip = beep(0.2, 0.5, 1.0)
    found = occlusion.occlusion(classifier, clip)
    whole = classifier.probabilities([clip])[0]
    assert found.score == pytest.approx(whole.max(), abs=1e-6) and found.label == classifier.labels[whole.argmax()]
    assert found.without.shape == found.evidence.shape == (occlusion.BANDS, occlusion.STEPS)
    assert (found.times[-1], found.hertz[-1]) == (1.0, pytest.approx(RATE / 2))
    assert np.isfinite(found.evidence).all() and found.evidence.std() > 0


def test_without_a_tile_the_rest_is_untouched():
    clip = beep(0.0, 2.0)
    hertz = np.array([0, 500, 1500, 2000, 3000, 4000, 5000, 6000, 8000.0])
    without = occlusion._silenced(clip, RATE, hertz)
    assert np.abs(without(1, 4)[8400:9600]).max() < 0.1, "0.525–0.6 s lie within tile 4 of 0.125 s each"
    np.testing.assert_allclose(without(1, 4)[16_000:], clip[16_000:], atol=1e-6)
    assert np.abs(without(5, 4) - clip).max() < 0.05, "the tone is not in that band"


@pytest.mark.parametrize("samples", [1, 300, 1023])
def test_the_shortest_sounds_can_be_explained(ear, samples):
    found = occlusion.occlusion(ear, beep(0, 1)[:samples])
    assert np.isfinite(found.evidence).all()


def test_too_short_a_sound_is_refused(tmp_path):
    classifier = SoundClassifier.from_pretrained(tiny.save("wav2vec2", tmp_path), device="cpu")
    with pytest.raises(AudioError):
        occlusion.occlusion(classifier, np.zeros(300, np.float32))
