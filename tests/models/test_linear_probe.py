"""Linear probes on cached embeddings are the frozen model: its logits, its checkpoint, its answers when served."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tests.conftest import TINY
from tests.helpers import tiny
from urbansound_hf.audio.io import SAMPLING_RATE
from urbansound_hf.config.parse import key_values, parse_run_config
from urbansound_hf.data.urbansound8k import CLASSES
from urbansound_hf.evaluation.runs import Run, read_predictions
from urbansound_hf.features.dataset import prepare_features
from urbansound_hf.features.extract import KEPT, Cut, as_tensors
from urbansound_hf.inference.classifier import SoundClassifier
from urbansound_hf.models import adapt, linear_probe
from urbansound_hf.models.linear_probe import LinearProbe, agrees
from urbansound_hf.models.loading import load_feature_extractor, load_model
from urbansound_hf.training import run as training_run
from urbansound_hf.training.cross_validation import run_experiment
from urbansound_hf.training.trainer import SoundTrainer

pytestmark = pytest.mark.usefixtures("plain_reports")

SPEECH = ["hidden_size=16", "num_hidden_layers=2", "num_attention_heads=2", "intermediate_size=16",
          "classifier_proj_size=8", "initializer_range=0.3"]  # fmt: skip
CONVOLUTIONS = ["conv_dim=[8,8,8,8,8,8,8]", "num_conv_pos_embeddings=4", "num_conv_pos_embedding_groups=2"]
WHISPER = ["d_model=16", "encoder_layers=1", "encoder_attention_heads=2", "encoder_ffn_dim=16", "init_std=0.5"]
AST = ["hidden_size=16", "num_hidden_layers=1", "num_attention_heads=2", "intermediate_size=16"]
FAMILIES = {
    "wav2vec2": [*SPEECH, *CONVOLUTIONS],
    "wavlm": [*SPEECH, *CONVOLUTIONS],
    "whisper": WHISPER,
    "audio-spectrogram-transformer": AST,
    "wav2vec2-bert": SPEECH,
    "cnn": ["architecture=residual", "hidden_sizes=[8,8]"],
    "yamnet": ["channels=[8,8,16,16]", "strides=[2,1,2,2]"],
    "clap-audio": ["patch_embeds_hidden_size=8", "depths=[1,1,1,1]", "num_attention_heads=[1,1,2,4]", "hidden_size=64",
                   "projection_dim=16"],
}  # fmt: skip
LAYERED = ("wav2vec2", "wav2vec2-bert", "whisper")  # the sum as one of them all, with a mask, and of an encoder
ROWS = [0, 16, 38, 40, 69, 70, 78, 81, 90, 92]  # clips of all lengths


def build(family: str, *more: str):
    """The family's extractor and a random model of it, as a run makes them."""
    extractor = load_feature_extractor(family)
    training_run.set_seed(0)
    overrides = key_values([*FAMILIES[family], *more])
    return extractor, load_model(family, CLASSES, overrides=overrides)


def prepared(sounds, extractor, rows):
    """Model inputs of some clips; the extractor's rate is not of interest here, 16 kHz is what the clips have."""
    extractor.sampling_rate = SAMPLING_RATE
    return prepare_features(sounds.dataset.select(rows), extractor, Cut(4 * SAMPLING_RATE))


def inputs_of(row: dict) -> dict[str, torch.Tensor]:
    return as_tensors({name: values[None] for name, values in row.items() if name not in KEPT})


@pytest.mark.parametrize(
    ("family", "more"),
    [*((family, []) for family in FAMILIES), *((family, ["use_weighted_layer_sum=True"]) for family in LAYERED)],
)
@torch.no_grad()
def test_the_probe_gives_the_models_own_logits(family, more, sounds):
    extractor, model = build(family, *more)
    if more:
        model.layer_weights.copy_(torch.linspace(-1, 2, len(model.layer_weights)))
    dataset = prepared(sounds, extractor, ROWS)
    assert agrees(model, dataset, "cpu")
    embedded = linear_probe.embeddings(model, dataset, batch_size=4)
    rows = [inputs_of(row) for row in dataset]
    if family == "wav2vec2-bert":
        assert not all(row["attention_mask"].all() for row in rows), "a clip of an odd number of frames must be here"
    whole = torch.cat([model(**row).logits for row in rows])
    assert whole.std(dim=0).max() > 1e-2 * whole.abs().max(), "the clips must be told apart, or nothing is compared"
    labels = torch.tensor(embedded["labels"][:])
    found = LinearProbe(model).eval()(torch.tensor(embedded["embedding"][:]), labels)
    torch.testing.assert_close(found.logits, whole, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(found.loss, torch.nn.functional.cross_entropy(whole, labels), atol=1e-5, rtol=1e-4)
    assert embedded["clip"][:].tolist() == dataset["clip"][:].tolist()


def test_a_model_that_pools_scores_instead_of_logits_is_no_linear_probe(sounds):
    extractor, model = build("yamnet")
    model.config.problem_type = "multi_label_classification"
    torch.nn.init.normal_(model.classifier.weight, std=10)  # near zero a sigmoid is as good as linear
    assert not agrees(model, prepared(sounds, extractor, ROWS), "cpu")


def test_the_probe_shares_the_head_and_nothing_else():
    _, model = build("wav2vec2")
    adapt.freeze(model, "backbone")
    learner = LinearProbe(model)
    mine = {id(parameter) for parameter in learner.parameters()}
    assert mine == {id(parameter) for parameter in model.parameters() if parameter.requires_grad}


def test_embeddings_are_computed_again_only_for_another_backbone(sounds):
    extractor, model = build("whisper", "init_std=0.6")
    dataset = prepared(sounds, extractor, ROWS)
    passes: list[int] = []

    def embeddings(of) -> np.ndarray:
        hook = adapt.backbone(of).register_forward_hook(lambda *_: passes.append(1))
        found = linear_probe.embeddings(of.train(), dataset, batch_size=5)["embedding"][:]
        hook.remove()
        return found

    first = embeddings(model)
    assert len(passes) == 2, "two batches"
    passes.clear()
    with torch.no_grad():
        for parameter in LinearProbe(model).parameters():
            parameter.add_(1)
    np.testing.assert_array_equal(embeddings(model), first)
    assert not passes, "another head, the same embeddings"
    for other in ("init_std=0.4", "activation_function=relu"):
        assert np.abs(embeddings(build("whisper", "init_std=0.6", other)[1]) - first).max() > 1e-4


# ---- whole runs


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("probes")


@pytest.fixture(scope="module")
def run(synthetic_root, folder) -> Callable[[str], Path]:
    """Probes a saved Whisper on fold 2, into a folder; returns that of the fold."""
    (folder / "tiny.yaml").write_text(TINY, encoding="utf-8")
    pretrained = tiny.save("whisper", folder / "pretrained", clip_seconds=2.0)
    flags = ["--dataset", "urbansound8k", "--data_dir", str(synthetic_root), "--model_name_or_path", str(pretrained),
             "--model_config", "apply_spec_augment=False", "--clip_seconds", "2", "--freeze", "backbone",
             "--learning_rate", "0.1", "--test_fold", "2"]  # fmt: skip

    def run(name: str) -> Path:
        argv = [*flags, "--output_dir", str(folder / name)]
        assert run_experiment(parse_run_config(argv, folder / "tiny.yaml")) == 0
        return folder / name / "fold2"

    return run


@pytest.fixture(scope="module")
def whole(run) -> Path:
    return run("whole")


def test_a_trained_probe_is_a_stock_checkpoint(whole, folder, sounds):
    trained, pretrained = (load_file(place / "model.safetensors") for place in (whole, folder / "pretrained"))
    assert trained.keys() == pretrained.keys()
    for name, values in trained.items():
        assert torch.equal(values, pretrained[name]) != name.startswith(("projector", "classifier")), name
    served = SoundClassifier.from_pretrained(whole, device="cpu")
    clips = [clip["bytes"] for clip in sounds.dataset.select(range(10, 20))["audio"]]
    answers = [dict((answer.summary or answer.windows[0]).top) for answer in served.classify_many(clips, top_k=10)]
    told = read_predictions(whole / "predictions.csv").probabilities
    assert told.std(axis=0).max() > 0.01
    np.testing.assert_allclose(told, [[row[label] for label in CLASSES] for row in answers], atol=1e-4)


def test_an_interrupted_probe_is_continued(run, whole, monkeypatch):
    save = SoundTrainer._save_checkpoint

    def save_and_stop(trainer: SoundTrainer, *args: object) -> None:
        save(trainer, *args)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(SoundTrainer, "_save_checkpoint", save_and_stop)
        run("out")
    out = run("out")
    assert Run(out).receipt["continued"]
    scores = [read_predictions(place / "predictions.csv").probabilities for place in (whole, out)]
    np.testing.assert_allclose(*scores, rtol=0, atol=1.5e-6)
