"""Without the Hub, the error says so; it does not send the user to another model."""

from __future__ import annotations

import pytest

from urbansound_hf.errors import UserError
from urbansound_hf.inference.classifier import SoundClassifier
from urbansound_hf.models.loading import load_feature_extractor, load_model


@pytest.mark.parametrize(
    "name", ["facebook/wav2vec2-base", "facebook/w2v-bert-2.0", "openai/whisper-tiny", "owner/cnn", "wav2vec2-base"]
)
def test_a_model_that_is_not_in_the_cache(name):
    for load in (load_feature_extractor, lambda name: load_model(name, ["a", "b"])):
        with pytest.raises(UserError) as caught:
            load(name)
        assert f"the Hub cannot be reached, and {name} is neither in the cache nor a folder here" in caught.value.what
        assert "check the name and the connection" in caught.value.fix and caught.value.where == "--model_name_or_path"
        assert ("did you mean" in caught.value.fix) == ("/" not in name)


@pytest.mark.parametrize("name", ["facebook/wav2vec2-base", "owner/cnn"])
def test_serving_says_the_same(name):
    with pytest.raises(UserError, match="the Hub cannot be reached"):
        SoundClassifier.from_pretrained(name)


@pytest.mark.parametrize("name", ["wav2vec2", "cnn", "whisper"])
def test_a_model_type_needs_no_hub(name):
    assert load_feature_extractor(name).sampling_rate == 16_000
