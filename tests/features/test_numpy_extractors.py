"""The feature extractors in numpy give what those of Transformers and of our modeling files give."""

from __future__ import annotations

import json

import numpy as np
import pytest
from transformers import (
    ASTFeatureExtractor,
    Wav2Vec2FeatureExtractor,
    WhisperFeatureExtractor,
)

from urbansound_hf.errors import UserError
from urbansound_hf.features.numpy_extractors import EXTRACTORS, NumpyExtractor
from urbansound_hf.models.clap.modeling_clap_audio import ClapAudioFeatureExtractor
from urbansound_hf.models.cnn.modeling_cnn import CnnFeatureExtractor
from urbansound_hf.models.yamnet.modeling_yamnet import YamnetFeatureExtractor

MADE = {
    "wav2vec2": lambda: Wav2Vec2FeatureExtractor(),
    "wav2vec2 with a mask": lambda: Wav2Vec2FeatureExtractor(return_attention_mask=True),
    "wav2vec2 as it is": lambda: Wav2Vec2FeatureExtractor(do_normalize=False),
    "whisper": lambda: WhisperFeatureExtractor(chunk_length=2),
    "ast": lambda: ASTFeatureExtractor(max_length=200),
    "clap": lambda: ClapAudioFeatureExtractor(),
    "cnn, mfcc": lambda: CnnFeatureExtractor(num_frames=90),
    "cnn, log-mel": lambda: CnnFeatureExtractor(feature="log_mel", n_mels=64, n_fft=1024, scaling="per_clip"),
    "yamnet": lambda: YamnetFeatureExtractor(peak_normalize=True),
}


@pytest.mark.parametrize("name", MADE)
def test_features_are_those_of_the_class_of_that_name(name):
    extractor = MADE[name]()
    ours, rate = NumpyExtractor(json.loads(extractor.to_json_string())), extractor.sampling_rate
    draw = np.random.default_rng(0)
    for seconds in (0.5, 1.017, 2.5):
        time = np.arange(round(seconds * rate)) / rate
        clip = 0.3 * np.sin(2 * np.pi * (200 + 300 * time) * time) + 0.05 * draw.standard_normal(len(time))
        clip = clip.astype(np.float32)
        expected = extractor(clip, sampling_rate=rate, return_tensors="np")
        found = ours(clip)
        assert set(found) == set(expected)
        for key, values in found.items():
            assert values.dtype == np.asarray(expected[key]).dtype
            np.testing.assert_allclose(values, expected[key], atol=2e-3)  # of levels in dB; others are of unit size


def test_every_extractor_is_compared():
    assert {type(make()).__name__ for make in MADE.values()} == set(EXTRACTORS)


@pytest.mark.parametrize(
    "config",
    [
        {"feature_extractor_type": "EncodecFeatureExtractor", "sampling_rate": 24_000},
        json.loads(WhisperFeatureExtractor(dither=1e-4).to_json_string()),
    ],
)
def test_an_extractor_that_is_not_here_is_refused_by_name(config):
    with pytest.raises(UserError, match=f"{config['feature_extractor_type']} with its settings"):
        NumpyExtractor(config)
