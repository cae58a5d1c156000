"""LoRA: which weights learn, that merging changes no score, and that a run leaves no trace of it."""

from __future__ import annotations

import math
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForAudioClassification, pipeline

from tests.conftest import WHISPER
from tests.models.test_loading import LABELS, TINY, build, load, noise, state, step, trainable
from tests.training.test_run import (
    EVERY_STEP,
    FILES,
    ROWS,
    assert_same_weights,
    read_predictions,
    small_split,
    waveforms,
    weights,
)
from urbansound_hf.errors import UserError, UserErrors
from urbansound_hf.features.extract import as_tensors, equal_shapes, extract
from urbansound_hf.inference.classifier import SoundClassifier
from urbansound_hf.models import adapt
from urbansound_hf.training.run import configured_model, train_and_evaluate

lora = pytest.importorskip("urbansound_hf.models.lora", reason="needs peft", exc_type=ImportError)

RANK = 2


def scores(model, extractor) -> torch.Tensor:
    """`(2, labels)` of two clips of a second."""
    clips = [extract(extractor, noise(extractor, 1.0, seed)) for seed in (1, 2)]
    ((_, batch),) = equal_shapes(clips)
    with torch.no_grad():
        return model.eval()(**as_tensors(batch)).logits.softmax(dim=1)


def learn(model, extractor) -> None:
    """Two steps: a correction is a product whose second factor starts at zero, and the first factor waits for it."""
    for _ in range(2):
        step(model, extractor)


# What learns


@pytest.mark.parametrize("family", TINY)
def test_the_corrections_and_the_head_learn_and_nothing_else(family):
    model, extractor = load(family)
    stack, inside = adapt.layers(model), {id(parameter) for parameter in adapt.backbone(model).parameters()}
    head = {name for name, parameter in model.named_parameters() if id(parameter) not in inside}
    head_size, before_adapting = sum(model.get_parameter(name).numel() for name in head), scores(model, extractor)
    lora.apply_lora(model, RANK)
    torch.testing.assert_close(scores(model, extractor), before_adapting)  # they start at zero
    found, learning = lora.adapters(model), trainable(model)
    assert learning == head | {f"{name}.lora_{part}.default.weight" for name in found for part in "AB"}
    assert set(found.values()) <= {module for layer in stack for module in layer.modules()}
    assert all(lora.adapters(layer) for layer in stack[1:]), "in every layer; YAMNet's first has nothing to adapt"
    shapes = [layer.base_layer.weight.shape for layer in found.values()]  # (outputs, inputs), and a kernel's behind
    expected = head_size + sum(RANK * (math.prod(shape[1:]) + shape[0]) for shape in shapes)
    assert adapt.count_parameters(model)["trained_parameters"] == expected
    before = state(model)
    learn(model, extractor)
    assert {name for name, values in model.state_dict().items() if not torch.equal(values, before[name])} == learning


def test_the_rates_of_layers_and_head_are_those_of_their_parameters():
    model, _ = load("wav2vec2")
    lora.apply_lora(model, RANK)
    groups = adapt.parameter_groups(model, 1.0, 0.01, head_learning_rate=7.0, layer_decay=0.5)
    rate = {id(parameter): group["lr"] for group in groups for parameter in group["params"]}
    names = {id(parameter): name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert rate.keys() == names.keys()
    for parameter, name in names.items():
        expected = 7.0 if "lora" not in name else 0.5 if "layers.0." in name else 1.0
        assert rate[parameter] == expected, name


def test_a_correction_is_scaled_by_twice_its_product():
    model, _ = load("cnn")
    lora.apply_lora(model, 4)
    assert {layer.scaling["default"] for layer in lora.adapters(model).values()} == {2.0}  # alpha / rank


# Merged


@pytest.mark.parametrize("family", TINY)
def test_the_merged_model_is_a_stock_one_with_the_scores_of_the_adapted(family, tmp_path):
    model, extractor = load(family)
    modules = [(name, type(module)) for name, module in model.named_modules()]
    before, plain = state(model), scores(model, extractor)
    lora.apply_lora(model, RANK)
    learn(model, extractor)
    adapted, names = scores(model, extractor), lora.adapters(model).keys()
    assert (adapted - plain).abs().max() > 1e-3, "what was learnt must be heard, or nothing is compared"
    lora.merge_lora(model)
    torch.testing.assert_close(scores(model, extractor), adapted, rtol=0, atol=1e-5)
    assert [(name, type(module)) for name, module in model.named_modules()] == modules
    assert not any(torch.equal(model.state_dict()[f"{name}.weight"], before[f"{name}.weight"]) for name in names)
    model.save_pretrained(tmp_path)
    extractor.save_pretrained(tmp_path)
    assert not any("lora" in path.read_text(encoding="utf-8") for path in tmp_path.glob("*.json"))
    opened, loading = AutoModelForAudioClassification.from_pretrained(tmp_path, output_loading_info=True)
    assert type(opened) is type(model) and not any(loading[key] for key in ("missing_keys", "unexpected_keys"))
    clip = {"array": noise(extractor, 1.0, 1), "sampling_rate": extractor.sampling_rate}
    answers = pipeline("audio-classification", model=str(tmp_path), device="cpu")(clip, top_k=None)
    told = {each["label"]: each["score"] for each in answers}
    np.testing.assert_allclose([told[label] for label in LABELS], adapted[0], atol=1e-5)


@pytest.mark.real
def test_the_published_whisper_is_adapted_with_a_fiftieth_of_its_parameters():
    model, extractor = build(WHISPER)
    head = model.projector.weight.numel() + 256 + 256 * 3 + 3
    lora.apply_lora(model, 8)
    counts = adapt.count_parameters(model)
    # In each of four layers four projections of 384 × 384 and two of 384 × 1536.
    assert counts["trained_parameters"] - head == 4 * 8 * (4 * (384 + 384) + 2 * (384 + 1536)) == 221_184
    learn(model, extractor)
    adapted = scores(model, extractor)
    lora.merge_lora(model)
    torch.testing.assert_close(scores(model, extractor), adapted, rtol=0, atol=1e-5)


# Whole runs


FLAGS = ["--lora_rank", RANK, "--learning_rate", 1e-2, "--head_learning_rate", 3e-2]


@pytest.fixture
def train(configure, sounds, tmp_path) -> Callable[..., tuple[Path, dict]]:
    """Runs the tiny wav2vec2 with LoRA into a folder; returns it with the metrics."""

    def run(name: str, *flags: object) -> tuple[Path, dict]:
        folder = tmp_path / name
        return folder, train_and_evaluate(configure(*FLAGS, *flags), sounds, small_split(), folder)

    return run


def test_a_run_leaves_the_files_and_the_weights_of_any_other(train, sounds):
    folder, metrics = train("run")
    assert {path.name for path in folder.iterdir() if path.is_file()} == FILES
    plain = AutoModelForAudioClassification.from_pretrained(folder)
    assert weights(folder).keys() == plain.state_dict().keys() and "lora" not in (folder / "config.json").read_text(
        encoding="utf-8"
    )
    # Two layers, in each four projections of 16 × 16 and two of 16 × 16; the head is 16 × 8 + 8 and 8 × 10 + 10.
    assert metrics["trained_parameters"] == 2 * 6 * RANK * (16 + 16) + 16 * 8 + 8 + 8 * 10 + 10
    assert metrics["parameters"] == plain.num_parameters() == 5462
    _, told = read_predictions(folder, sounds.labels)
    served = SoundClassifier.from_pretrained(folder, device="cpu").probabilities(waveforms(sounds, ROWS[9]))
    assert served.std(axis=0).max() > 0.01, "the clips must be told apart, or nothing is compared"
    np.testing.assert_allclose(told, served, atol=2e-6)


def test_the_layers_of_a_run_have_learnt(train, sounds, configure):
    folder, _ = train("run")
    torch.manual_seed(configure().training.seed)
    untrained = configured_model(configure(), sounds.labels)
    moved = {name for name, values in weights(folder).items() if not torch.equal(values, untrained.state_dict()[name])}
    adapted = ("k_proj", "v_proj", "q_proj", "out_proj", "intermediate_dense", "output_dense")
    corrected = {f"wav2vec2.encoder.layers.{i}." for i in (0, 1)}
    assert {name for name in moved if name.startswith("wav2vec2.")} == {
        name
        for name in weights(folder)
        if name.endswith(tuple(f"{layer}.weight" for layer in adapted)) and name.startswith(tuple(corrected))
    }


@pytest.mark.parametrize("interrupted_after", [2, 5])
def test_an_interrupted_run_ends_with_the_weights_of_an_uninterrupted_one(train, tmp_path, interrupted_after):
    whole, expected = train("whole", *EVERY_STEP, "--keep_checkpoints")
    checkpoint = f"checkpoints/checkpoint-{interrupted_after}"
    assert any("lora_A" in name for name in weights(whole / checkpoint)), "what is trained on is not merged"
    shutil.copytree(whole / checkpoint, tmp_path / "resumed" / checkpoint)
    resumed, metrics = train("resumed", *EVERY_STEP)
    assert_same_weights(resumed, whole)
    assert metrics["test_loss"] == expected["test_loss"]


# Mistakes


@pytest.mark.parametrize(
    ("flags", "what", "fix"),
    [
        (["--lora_rank", 0], "`lora_rank` must be 1 or more, found 0", ""),
        (["--lora_rank", 8, "--freeze", "backbone"], "low-rank updates of the backbone", "leave out one of the two"),
    ],
)
def test_what_excludes_lora_is_told(configure, flags, what, fix):
    with pytest.raises(UserErrors) as caught:
        configure(*flags)
    (problem,) = caught.value.problems
    assert what in problem.what and fix in problem.fix and "--lora_rank" in problem.where
    assert configure("--lora_rank", 1, "--freeze", "feature_encoder").model.lora_rank == 1


def test_without_peft_the_way_to_install_it_is_told_before_anything_is_loaded(configure, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)  # as far as Python can tell, it is not installed
    assert configure().model.lora_rank is None
    with pytest.raises(UserErrors, match="`lora_rank` needs peft, which is not installed") as caught:
        configure("--lora_rank", 8)
    (problem,) = caught.value.problems
    assert problem.where == "command line, --lora_rank" and "pip install 'urbansound-hf[lora]'" in problem.fix


def test_a_model_without_layers_cannot_be_adapted():
    model, _ = build("wav2vec2", [*TINY["wav2vec2"], "num_hidden_layers=0"])
    with pytest.raises(UserError, match="this wav2vec2 model has none") as caught:
        lora.apply_lora(model, RANK)
    assert caught.value.where == "--lora_rank" and "--freeze backbone trains the head alone" in caught.value.fix
