"""A pretrained head answers under the names of its own classes, in whatever order the data has them."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from transformers import AutoModelForAudioClassification, Wav2Vec2Config, Wav2Vec2Model

from tests.models.test_loading import TINY, build
from urbansound_hf.config.parse import key_values
from urbansound_hf.data.urbansound8k import CLASSES
from urbansound_hf.errors import UserError
from urbansound_hf.models import adapt
from urbansound_hf.models.heads import _last_layer, rows_by_name
from urbansound_hf.models.loading import load_feature_extractor, load_model

FAMILIES = ("wav2vec2", "audio-spectrogram-transformer", "whisper", "cnn", "yamnet")


@pytest.fixture(params=FAMILIES)
def checkpoint(request, tmp_path):
    """A classifier of the ten classes with a head of random rows, its folder and a clip for it."""
    torch.manual_seed(0)
    model, extractor = build(request.param, TINY[request.param], labels=CLASSES)
    model.eval()
    with torch.no_grad():
        for values in _last_layer(model).parameters():  # biases as well: they start at zero
            values.normal_()
    model.save_pretrained(tmp_path)
    extractor.save_pretrained(tmp_path)
    clip = extractor(torch.randn(16_000).numpy(), sampling_rate=16_000, return_tensors="pt")
    return model, tmp_path, clip


@torch.no_grad()
def scores(model, clip) -> dict[str, float]:
    logits = model.eval()(**clip).logits[0].tolist()
    return {model.config.id2label[number]: logit for number, logit in enumerate(logits)}


def load(folder, labels):
    return load_model(folder, labels, clip_seconds=1.0)


def test_each_class_keeps_its_scores_under_its_name(checkpoint):
    model, folder, clip = checkpoint
    wanted = scores(model, clip)
    assert len(set(wanted.values())) == 10
    for labels in (list(CLASSES), CLASSES[::-1], CLASSES[3:] + CLASSES[:3]):
        again = load(folder, labels)
        assert list(scores(again, clip)) == list(labels)
        assert scores(again, clip) == pytest.approx(wanted, abs=1e-5)
    names = {"id2label": dict(enumerate(CLASSES[::-1])), "label2id": {name: i for i, name in enumerate(CLASSES[::-1])}}
    stock = AutoModelForAudioClassification.from_pretrained(folder, **names)
    assert scores(stock, clip) != pytest.approx(wanted, abs=1e-3), "if this fails, Transformers does it by name now"


@pytest.mark.parametrize("count", [10, 9])
def test_the_rows_of_other_classes_are_not_taken_over(checkpoint, count):
    model, folder, clip = checkpoint
    other = load(folder, [*CLASSES[: count - 1], "rain"])
    for before, after in zip(adapt.backbone(model).parameters(), adapt.backbone(other).parameters(), strict=True):
        torch.testing.assert_close(before, after)
    rows = (_last_layer(model).weight, _last_layer(other).weight)
    assert len(rows[1]) == count and not torch.isclose(rows[0][:count], rows[1]).all(dim=1).any()
    assert len(set(scores(other, clip).values())) == count, "they are drawn anew, not all equal"


def test_a_model_without_a_head_gets_one(tmp_path):
    pairs = key_values(TINY["wav2vec2"])
    Wav2Vec2Model(Wav2Vec2Config(**pairs)).save_pretrained(tmp_path)
    load_feature_extractor("wav2vec2").save_pretrained(tmp_path)
    assert load(tmp_path, ["a", "b"]).config.id2label == {0: "a", 1: "b"}  # as many as the default LABEL_0, LABEL_1


def test_a_head_without_rows_is_refused():
    model, names = torch.nn.Conv1d(4, 3, 1), {0: "a", 1: "b", 2: "c"}
    model.config = SimpleNamespace(num_labels=3, model_type="odd")
    rows_by_name(model, names, ["a", "b", "c"])  # nothing to move
    with pytest.raises(UserError, match="the head of odd models has no layer with a row for each of its classes"):
        rows_by_name(model, names, ["b", "a", "c"])


def test_new_classes_begin_with_what_the_head_knew_under_other_names(checkpoint):
    model, folder, clip = checkpoint
    wanted = scores(model, clip)
    head_from = {"hound": "dog_bark", "alarm": "siren"}
    again = load_model(folder, ["alarm", "other", "hound"], clip_seconds=1.0, head_from=head_from)
    found = scores(again, clip)
    assert found["hound"] == pytest.approx(wanted["dog_bark"], abs=1e-5)
    assert found["alarm"] == pytest.approx(wanted["siren"], abs=1e-5)


@pytest.mark.parametrize(
    ("pair", "message"),
    [
        ("hond=dog_bark", r"the new head has no class 'hond'(.|\n)*nearest: 'hound'"),
        ("hound=dogbark", r"the checkpoint's head has no class 'dogbark'(.|\n)*nearest: 'dog_bark'"),
    ],
)
def test_a_class_to_begin_with_must_be_there(checkpoint, pair, message):
    _, folder, _ = checkpoint
    with pytest.raises(UserError, match=message):
        load_model(folder, ["alarm", "hound"], clip_seconds=1.0, head_from=key_values([pair]))
