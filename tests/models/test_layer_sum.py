"""The learned weighted sum of layers: who has one, that it starts even, learns, is probed as itself and saved."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForAudioClassification, pipeline

from tests.helpers import tiny
from tests.models.test_loading import LABELS, TINY, build, noise, step
from tests.training.test_run import assert_same_weights, small_split, weights
from urbansound_hf.errors import UserError
from urbansound_hf.features.extract import as_tensors, extract
from urbansound_hf.models import adapt, linear_probe
from urbansound_hf.models.linear_probe import LinearProbe, embed
from urbansound_hf.training.run import train_and_evaluate

ABLE = ["data2vec-audio", "hubert", "sew", "sew-d", "unispeech", "unispeech-sat", "wav2vec2", "wav2vec2-bert",
        "wav2vec2-conformer", "wavlm", "whisper"]  # fmt: skip
DROPS = {family: "encoder_layerdrop" if family == "whisper" else "layerdrop" for family in ABLE if family != "sew-d"}


def load(name: str, model_config=(), weighted: bool = True):
    torch.manual_seed(0)
    return build(name, model_config, weighted_layer_sum=weighted)


def inputs(extractor, seed: int) -> dict[str, torch.Tensor]:
    clip = extract(extractor, noise(extractor, 1.0, seed))
    return as_tensors({name: values[None] for name, values in clip.items()})


@pytest.mark.parametrize("family", ABLE)
def test_a_pretrained_model_gets_even_weights_that_learn_with_the_head(family, tmp_path):
    drops = [f"{DROPS[family]}=0.9"] if family in DROPS else []
    pretrained, extractor = load(family, [*TINY[family], *drops], weighted=False)
    assert not hasattr(pretrained, "layer_weights")
    pretrained.save_pretrained(tmp_path)
    extractor.save_pretrained(tmp_path)
    torch.empty(10_000).fill_(7.0)  # dirt in the memory from which unset weights would come
    model, extractor = load(str(tmp_path))
    torch.testing.assert_close(model.layer_weights.data, torch.full((3,), 1 / 3))  # two layers, and what goes into them
    adapt.freeze(model, "backbone")
    groups = adapt.parameter_groups(model, 1.0, 0.0, head_learning_rate=7.0)
    (rate,) = (group["lr"] for group in groups if any(each is model.layer_weights for each in group["params"]))
    assert rate == 7.0
    for _ in range(3):
        step(model, extractor)  # with nine layers in ten dropped, a step of these would fail
    assert (model.layer_weights - 1 / 3).abs().max() > 1e-4
    with torch.no_grad():
        for seed in (1, 2):
            clip = inputs(extractor, seed)
            embedding = embed(model.eval(), clip)
            assert embedding.shape == (1, 3, 16)
            torch.testing.assert_close(LinearProbe(model)(embedding).logits, model(**clip).logits)


@pytest.mark.parametrize("family", ["wav2vec2", "whisper"])
def test_the_saved_sum_is_a_stock_model_and_goes_on_where_it_stood(family, tmp_path):
    model, extractor = load(family, TINY[family])
    with torch.no_grad():
        model.layer_weights.copy_(torch.tensor([3.0, -1.0, 0.5]))
    model.save_pretrained(tmp_path)
    extractor.save_pretrained(tmp_path)
    for again in (load(str(tmp_path))[0], load(str(tmp_path), weighted=False)[0]):
        assert again.layer_weights.tolist() == [3.0, -1.0, 0.5]
    clip = {"array": noise(extractor, 1.0, 1), "sampling_rate": extractor.sampling_rate}
    answers = pipeline("audio-classification", model=str(tmp_path), device="cpu")(clip, top_k=None)
    told = {each["label"]: each["score"] for each in answers}
    with torch.no_grad():
        expected = model.eval()(**inputs(extractor, 1)).logits.softmax(dim=1)[0]
        model.layer_weights.copy_(torch.zeros(3))
        assert (model(**inputs(extractor, 1)).logits.softmax(dim=1)[0] - expected).abs().max() > 1e-3
    np.testing.assert_allclose([told[label] for label in LABELS], expected, atol=1e-5)


@pytest.mark.parametrize("family", sorted(set(TINY) - set(ABLE)))
def test_the_others_are_told_which_families_can(family):
    pytest.importorskip("speechbrain" if family == "ecapa-tdnn" else "torch")
    with pytest.raises(UserError, match="models have no weighted sum of layers") as caught:
        load(family, TINY[family])
    assert caught.value.where == "--weighted_layer_sum" and caught.value.fix.endswith(", ".join(ABLE))
    assert load(family, TINY[family], weighted=False)


# Whole runs: SUPERB's protocol


@pytest.fixture
def train(configure, sounds, tmp_path) -> Callable[..., tuple[Path, dict]]:
    """Probes a weighted sum of the layers of a saved Whisper; returns the folder and the metrics."""
    pretrained = tiny.save("whisper", tmp_path / "pretrained", clip_seconds=2.0)

    def run(name: str, *flags: object) -> tuple[Path, dict]:
        folder = tmp_path / name
        given = ["--model_name_or_path", pretrained, "--model_config", "apply_spec_augment=False", "--clip_seconds", 2]
        config = configure(*given, "--weighted_layer_sum", "--freeze", "backbone", *flags)
        return folder, train_and_evaluate(config, sounds, small_split(), folder)

    return run


def test_a_probe_of_all_layers_on_cached_embeddings_is_the_frozen_model(train, monkeypatch):
    flags = ["--optim", "sgd", "--learning_rate", 1]
    cached, metrics = train("cached", *flags)
    monkeypatch.setattr(linear_probe, "agrees", lambda *_: False)
    whole, expected = train("whole", *flags)
    assert_same_weights(cached, whole, atol=1e-5)
    assert (weights(whole)["layer_weights"] - 1 / 2).abs().max() > 1e-4, "one layer, and what goes into it"
    head = 32 * 32 + 32 + 32 * 10 + 10
    assert metrics["trained_parameters"] == expected["trained_parameters"] == head + 2
    assert metrics["test_loss"] == pytest.approx(expected["test_loss"], rel=1e-4)
    model, loading = AutoModelForAudioClassification.from_pretrained(cached, output_loading_info=True)
    assert model.config.use_weighted_layer_sum and not loading["missing_keys"] and not loading["unexpected_keys"]
