"""Several models as one: the combined scores of its members, each sound read once, and members that do not fit."""

from __future__ import annotations

import json

import numpy as np
import pytest

from tests.helpers import tiny
from urbansound_hf.data.urbansound8k import CLASSES
from urbansound_hf.errors import UserError
from urbansound_hf.inference import classifier as serving
from urbansound_hf.inference.classifier import SoundClassifier, combined


def named(labels):
    return {"id2label": dict(enumerate(labels)), "label2id": {label: i for i, label in enumerate(labels)}}


@pytest.fixture(scope="session")
def whisper(tmp_path_factory):
    """A Whisper whose classes have another order."""
    return tiny.save("whisper", tmp_path_factory.mktemp("whisper"), **named(CLASSES[::-1]), clip_seconds=1.0)


def test_means_of_scores():
    scores = np.array([[[0.8, 0.1, 0.1]], [[0.2, 0.5, 0.3]]])
    np.testing.assert_allclose(combined(scores, mean="arithmetic"), [[0.5, 0.3, 0.2]])
    np.testing.assert_allclose(combined(scores, [0.25, 0.75], "arithmetic"), [[0.35, 0.4, 0.25]])
    roots = np.sqrt([0.16, 0.05, 0.03])
    np.testing.assert_allclose(combined(scores), [roots / roots.sum()])
    of_each = roots / (roots + np.sqrt([0.16, 0.45, 0.63]))
    np.testing.assert_allclose(combined(scores, several=True), [of_each])
    assert combined(np.array([[[1.0, 0.0]], [[0.4, 0.6]]]))[0, 1] > 0, "one model cannot rule a class out"


def test_an_ensemble_reads_each_sound_once_and_combines_its_members(model, whisper, sounds, monkeypatch):
    folders, reads = [model, whisper], []
    read = serving.read_windows
    monkeypatch.setattr(serving, "read_windows", lambda *arguments: reads.append(1) or read(*arguments))
    ensemble = SoundClassifier.from_pretrained(folders, device="cpu")
    (long,) = ensemble.classify_many(["long.wav"], embeddings=True)
    assert len(reads) == 1 and len(long.windows) == 4
    each = [SoundClassifier.from_pretrained(folder, device="cpu") for folder in folders]
    alone = [one.classify("long.wav", embeddings=True) for one in each]
    columns = [[one.labels.index(label) for label in ensemble.labels] for one in each]
    scores = np.stack([one.scores[:, own] for one, own in zip(alone, columns, strict=True)])
    np.testing.assert_allclose(long.scores, combined(scores), atol=1e-6)
    widths = [len(one.windows[0].embedding) for one in alone]
    assert len(long.windows[0].embedding) == sum(widths)


def test_infer_takes_several_models_before_or_after_the_sounds(model, whisper, sounds, run):
    named, options = ("--model", str(model), str(whisper)), ("--device", "cpu", "--format", "jsonl")
    code, after, _ = run("a.wav", *options, *named, model=None)
    assert (code, run(*named, "a.wav", *options, model=None)[1]) == (0, after)
    scores = SoundClassifier.from_pretrained([model, whisper], device="cpu").classify("a.wav").scores
    assert json.loads(after)["score"] == pytest.approx(scores.max(), abs=1e-5)
    code, alone, _ = run("--model", str(model), "a.wav", "deep", *options, model=None)  # one model, two sounds
    assert code == 0 and len(alone.splitlines()) == 3 and alone.splitlines()[0] != after.strip()


def test_members_of_other_labels_are_refused(model, tmp_path):
    other = tiny.save("yamnet", tmp_path / "other", **named(("cat", "dog")))
    with pytest.raises(UserError, match=r"share labels, sampling rate.*labels: .*air_conditioner.*cat"):
        SoundClassifier.from_pretrained([model, other], device="cpu")
