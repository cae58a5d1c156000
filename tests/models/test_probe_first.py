"""A head that begins as the linear probe is that logistic regression, in every family, before a step was taken."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn

from tests.conftest import TINY
from tests.helpers import tiny
from tests.models.test_linear_probe import FAMILIES, build, inputs_of, prepared
from urbansound_hf.config.parse import parse_run_config
from urbansound_hf.errors import UserError
from urbansound_hf.evaluation.runs import read_predictions
from urbansound_hf.models.linear_probe import PENALTY, embeddings, fit_head, linear_layers, put_head, regression
from urbansound_hf.models.loading import load_model
from urbansound_hf.training.cross_validation import run_experiment

pytestmark = pytest.mark.usefixtures("plain_reports")


def clouds(classes: list[int], seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Thirty points of six numbers of very different sizes, around another place for each class."""
    generator = np.random.default_rng(seed)
    labels = np.resize(classes, 30)
    places = generator.normal(size=(max(classes) + 1, 6))
    return (places[labels] + 0.3 * generator.normal(size=(30, 6))) * 10.0 ** np.arange(-2, 4) + 5, labels


@pytest.mark.parametrize("classes", [[0, 1, 2, 3], [0, 1]])
def test_the_regression_is_scikit_learns(classes):
    inputs, labels = clouds(classes)
    weight, bias = regression(inputs, labels, len(classes))
    penalised = LogisticRegression(C=1 / (PENALTY * len(labels)), max_iter=1000)
    expected = make_pipeline(StandardScaler(), penalised).fit(inputs, labels).predict_proba(inputs)
    found = torch.from_numpy(inputs @ weight.T + bias).softmax(dim=1).numpy()
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_a_class_without_a_clip_is_never_the_answer():
    inputs, labels = clouds([0, 2])
    weight, bias = regression(inputs, labels, 4)
    assert not weight[[1, 3]].any()
    assert set((inputs @ weight.T + bias).argmax(axis=1)) == {0, 2}


@pytest.mark.parametrize("widths", [[8, 4], [8, 16, 4], [8, 16, 6, 4]])
@torch.no_grad()
def test_layers_in_a_row_compute_what_was_put_into_them(widths):
    layers = [nn.Linear(*shape) for shape in pairwise(widths)]
    weight, bias, inputs = torch.randn(4, 8), torch.randn(4), torch.randn(5, 8)
    put_head(layers, weight, bias)
    torch.testing.assert_close(nn.Sequential(*layers)(inputs), inputs @ weight.T + bias, atol=1e-5, rtol=1e-5)


def test_what_a_layer_holds_beyond_the_probe_is_still_learnt():
    layers = [nn.Linear(8, 16), nn.Linear(16, 4)]
    with torch.no_grad():
        put_head(layers, torch.randn(4, 8), torch.randn(4))
    nn.Sequential(*layers)(torch.randn(5, 8)).square().sum().backward()
    assert (layers[1].weight.grad.abs().sum(dim=0) > 0).all()


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_the_model_answers_as_the_regression(family, sounds):
    extractor, model = build(family)
    dataset = prepared(sounds, extractor, list(range(0, 100, 3)))
    embedded = embeddings(model, dataset, batch_size=8)
    rows, labels = [inputs_of(row) for row in dataset], torch.tensor(embedded["labels"][:])

    def loss() -> float:
        logits = torch.cat([model.eval()(**row).logits for row in rows])
        return float(nn.functional.cross_entropy(logits, labels))

    backbone = {name: values.clone() for name, values in model.state_dict().items()}
    before = loss()
    fit_head(model, embedded)
    assert loss() < 0.9 * before
    head = {name for name, values in model.state_dict().items() if not torch.equal(values, backbone[name])}
    assert {name.split(".")[0] for name in head} <= {"classifier", "projector"}


def test_a_head_of_another_kind_is_refused():
    pytest.importorskip("speechbrain")
    model = load_model("ecapa-tdnn", ["a", "b"], overrides={"channels": [16, 16, 16, 16, 48]})
    with pytest.raises(UserError, match="the head of ecapa-tdnn models does not end in a linear layer"):
        linear_layers(model)


def test_a_run_begins_there_whatever_its_recipe(synthetic_root, tmp_path):
    """With steps too small to see, what is left is the probe, also where the training clips are changed."""
    (tmp_path / "tiny.yaml").write_text(TINY, encoding="utf-8")
    pretrained = tiny.save("whisper", tmp_path / "pretrained", clip_seconds=2.0)
    flags = ["--dataset", "urbansound8k", "--data_dir", str(synthetic_root), "--model_name_or_path", str(pretrained)]
    flags += ["--model_config", "apply_spec_augment=False", "--clip_seconds", "2", "--freeze", "none"]
    flags += ["--learning_rate", "1e-12", "--test_fold", "2"]
    recipes = {"without": [], "probe": ["--probe_first"], "changed": ["--probe_first", "--augment", "gain:1"]}
    told = {}
    for name, recipe in recipes.items():
        argv = [*flags, *recipe, "--output_dir", str(tmp_path / name)]
        assert run_experiment(parse_run_config(argv, tmp_path / "tiny.yaml")) == 0
        told[name] = read_predictions(tmp_path / name / "fold2" / "predictions.csv")
    np.testing.assert_allclose(told["changed"].probabilities, told["probe"].probabilities, atol=1e-5)
    assert told["probe"].correct.mean() > told["without"].correct.mean()
