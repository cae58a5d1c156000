"""What the head sees: poolings and layers of YAMNet in its own head, chosen layers of a sum, a penalty of its own."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.helpers import tiny
from urbansound_hf.errors import UserError
from urbansound_hf.models.adapt import LogitsAndEmbedding
from urbansound_hf.models.heads import choose_head_inputs
from urbansound_hf.models.linear_probe import PENALTIES, choose_penalty, regression
from urbansound_hf.models.loading import load_model
from urbansound_hf.models.yamnet.modeling_yamnet import PATCH_FRAMES


@pytest.fixture
def yamnet():
    return load_model("yamnet", ["a", "b"], overrides={"channels": [4, 6, 8], "strides": [2, 2, 2]}).eval()


@torch.no_grad()
def test_poolings_and_layers_stand_side_by_side_in_the_head(yamnet, tmp_path):
    choose_head_inputs(yamnet, ["mean", "max", "std", "rms"], [2, 3])
    features = torch.randn(2, PATCH_FRAMES * 3, 64)
    seen = []
    for layer in (1, 2):
        yamnet.yamnet.layers[layer].register_forward_hook(lambda _, __, out: seen.append(out.mean(dim=(2, 3))))
    logits, embedding = LogitsAndEmbedding(yamnet)(input_features=features)
    patches = torch.cat(seen[:2], dim=1).unflatten(0, (2, -1)).numpy()  # (batch, patches, 14)
    rms = np.sqrt((patches**2).mean(axis=1))
    expected = np.concatenate([patches.mean(axis=1), patches.max(axis=1), patches.std(axis=1), rms], axis=1)
    np.testing.assert_allclose(embedding.numpy(), expected, atol=1e-5)
    torch.testing.assert_close(logits, yamnet.classifier(embedding))
    yamnet.save_pretrained(tmp_path)
    again = type(yamnet).from_pretrained(tmp_path).eval()
    torch.testing.assert_close(again(features).logits, logits)


@torch.no_grad()
def test_padding_is_no_patch_and_the_direction_alone_counts(yamnet):
    choose_head_inputs(yamnet, ["mean", "max", "rms"])
    yamnet.config.normalize_embedding = True
    features = torch.randn(1, PATCH_FRAMES * 2, 64)
    padded = torch.nn.functional.pad(features, (0, 0, 0, PATCH_FRAMES))
    mask = torch.ones(1, PATCH_FRAMES * 3).index_fill(1, torch.arange(PATCH_FRAMES * 2, PATCH_FRAMES * 3), 0)
    torch.testing.assert_close(yamnet(padded, mask).logits, yamnet(features).logits, atol=1e-5, rtol=1e-5)
    patches = torch.rand(1, 3, 8) * (torch.arange(8) > 0)  # a probe takes a number that is never above 0 for constant
    assert not yamnet.pool_patches(patches)[:, ::8].any()
    torch.testing.assert_close(yamnet.pool_patches(5 * patches), yamnet.pool_patches(patches))


def test_chosen_layers_of_a_sum_share_the_weight():
    model = load_model(
        "whisper", ["a", "b"], overrides=dict(tiny.WHISPER, encoder_layers=3), weighted_layer_sum=True, clip_seconds=1.0
    )
    choose_head_inputs(model, layers=[1, 2])
    shares = model.layer_weights.softmax(dim=0).tolist()
    assert shares == pytest.approx([0, 0.5, 0.5, 0], abs=1e-3)
    with pytest.raises(UserError, match=r"the layers 0 to 3, found \[4\]"):
        choose_head_inputs(model, layers=[4])


def test_what_a_family_cannot_save_is_refused(yamnet):
    model = load_model("wav2vec2", ["a", "b"], overrides=tiny.WAV2VEC2)
    for options, flag in (({"pooling": ["max"]}, "--probe_pooling"), ({"layers": [1]}, "--probe_layers")):
        with pytest.raises(UserError, match="wav2vec2 models cannot save this") as refusal:
            choose_head_inputs(model, **options)
        assert flag in str(refusal.value)
    with pytest.raises(UserError, match="patches are pooled by mean, max, std, rms; found \\['median'\\]"):
        choose_head_inputs(yamnet, ["median"])
    with pytest.raises(UserError, match=r"layers go from 1 to 3; found \[4\]"):
        choose_head_inputs(yamnet, layers=[4])


def noisy_recordings(clips: int = 160, width: int = 60) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Clips of 40 recordings: two numbers tell the classes, the others tell only the recordings."""
    draw = np.random.default_rng(0)
    recordings = np.arange(clips) % 40
    labels = recordings % 4
    inputs = draw.normal(size=(40, width))[recordings] + 0.1 * draw.normal(size=(clips, width))
    inputs[:, :2] += 1.5 * np.array([[0, 0], [0, 1], [1, 0], [1, 1]])[labels]
    return inputs, labels, recordings


def test_the_penalty_is_chosen_on_recordings_that_were_not_fitted():
    inputs, labels, recordings = noisy_recordings()
    by_recording = choose_penalty(inputs, labels, recordings, 4)
    by_clip = choose_penalty(inputs, labels, np.random.default_rng(1).permutation(len(labels)), 4)
    best = by_recording["accuracies"]
    assert best[str(by_recording["penalty"])] == max(best.values()) and set(best) == {str(each) for each in PENALTIES}
    assert max(best.values()) < max(by_clip["accuracies"].values()) - 0.2, "clips of one recording must stay together"
    assert "160 training clips, 5 parts of 40 recordings" in by_recording["chosen_on"]
    assert choose_penalty(inputs, labels, np.zeros(160), 4) == {}, "one recording cannot be split"
    weight, _ = regression(inputs, labels, 4, 3.0)
    assert np.abs(weight).sum() < np.abs(regression(inputs, labels, 4, 0.03)[0]).sum()
