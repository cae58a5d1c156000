"""Records of families: they agree with the classes, and a family of one module and one record trains and serves."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest
import torch

from tests.conftest import ROOT, TINY
from tests.models.test_loading import LABELS, NEEDS, load, noise
from tests.models.test_loading import TINY as FAMILIES
from urbansound_hf.config.parse import parse_run_config
from urbansound_hf.data.urbansound8k import CLASSES
from urbansound_hf.errors import UserError
from urbansound_hf.features.extract import Spectrogram, extract
from urbansound_hf.inference.classifier import SoundClassifier
from urbansound_hf.layout import finished
from urbansound_hf.models import registry
from urbansound_hf.models.linear_probe import linear_layers
from urbansound_hf.models.registry import Family, Lengths, add_family, check_length, families, family_of
from urbansound_hf.training.cross_validation import run_experiment

pytestmark = pytest.mark.usefixtures("plain_reports")

MODELING = '''
"""Band energies under two linear layers."""
import numpy as np
import torch
from torch import nn
from transformers import (AutoConfig, AutoFeatureExtractor, AutoModelForAudioClassification, BatchFeature,
                          FeatureExtractionMixin, PreTrainedConfig, PreTrainedModel)
from transformers.modeling_outputs import SequenceClassifierOutput

FRAME = 160


class BandsConfig(PreTrainedConfig):
    model_type = "bands"
    hidden_size: int = 8


class BandsFeatureExtractor(FeatureExtractionMixin):
    model_input_names = ["bands"]

    def __init__(self, sampling_rate=16_000, max_frames=1000, **kwargs):
        super().__init__(**kwargs)
        self.sampling_rate, self.max_frames = sampling_rate, max_frames

    def __call__(self, raw_speech, sampling_rate=None, return_tensors=None, **kwargs):
        clips = np.atleast_2d(np.asarray(raw_speech, np.float32))[:, : self.max_frames * FRAME]
        frames = clips[:, : clips.shape[1] // FRAME * FRAME].reshape(len(clips), -1, FRAME)
        return BatchFeature({"bands": np.log(np.abs(np.fft.rfft(frames))[..., :40] + 1).astype(np.float32)},
                            tensor_type=return_tensors)


class Body(nn.Linear):
    def forward(self, bands):
        return super().forward(bands)  # (batch, frames, hidden)


class BandsForAudioClassification(PreTrainedModel):
    config_class, base_model_prefix, main_input_name = BandsConfig, "body", "bands"

    def __init__(self, config):
        super().__init__(config)
        self.body = Body(40, config.hidden_size)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)
        self.post_init()

    def forward(self, bands: torch.Tensor, labels: torch.Tensor | None = None):
        logits = self.classifier(self.body(bands)).mean(dim=1)
        loss = None if labels is None else nn.functional.cross_entropy(logits, labels)
        return SequenceClassifierOutput(loss=loss, logits=logits)


AutoConfig.register("bands", BandsConfig)
AutoFeatureExtractor.register(BandsConfig, BandsFeatureExtractor)
AutoModelForAudioClassification.register(BandsConfig, BandsForAudioClassification)
'''


class BandsLengths(Lengths):
    def longest_seconds(self, feature_extractor) -> float:
        return feature_extractor.max_frames / 100

    def shortest_samples(self, config) -> int:
        return 160

    def fit_extractor(self, feature_extractor, clip_seconds: float) -> None:
        check_length(clip_seconds, self.longest_seconds(feature_extractor))
        feature_extractor.max_frames = round(clip_seconds * 100)


@pytest.fixture
def bands(tmp_path, monkeypatch):
    """A family that this package has never seen: its module and its record."""
    (tmp_path / "modeling_bands_of_the_test.py").write_text(MODELING, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(registry, "_families", dict(registry._families))
    spectrogram = Spectrogram("bands", frequency_axis=1, time_axis=0)
    record = {"lengths": BandsLengths(), "linear_layers": ("classifier",), "spectrogram": spectrogram}
    add_family(Family("bands", modeling="modeling_bands_of_the_test", input="band energies", **record))
    yield
    forget_auto_classes()


def forget_auto_classes() -> None:
    """Takes the family out of Transformers' tables, which other tests read as well."""
    from transformers import CONFIG_MAPPING, FEATURE_EXTRACTOR_MAPPING, MODEL_FOR_AUDIO_CLASSIFICATION_MAPPING

    config = CONFIG_MAPPING["bands"]
    del CONFIG_MAPPING._extra_content["bands"]
    for mapping in (FEATURE_EXTRACTOR_MAPPING, MODEL_FOR_AUDIO_CLASSIFICATION_MAPPING):
        del mapping._extra_content[config]
    del sys.modules["modeling_bands_of_the_test"]


def test_a_module_and_a_record_are_all_that_a_family_takes(bands, synthetic_root, tmp_path):
    (tmp_path / "tiny.yaml").write_text(TINY, encoding="utf-8")
    flags = ["--data_dir", str(synthetic_root), "--model_name_or_path", "bands", "--model_config", "hidden_size=12"]
    flags += ["--clip_seconds", "2", "--test_fold", "2", "--spec_augment", "1", "--probe_first"]
    argv = [*flags, "--output_dir", str(tmp_path / "run")]
    assert run_experiment(parse_run_config(argv, tmp_path / "tiny.yaml")) == 0
    folder = tmp_path / "run" / "fold2"
    assert finished(folder)
    classifier = SoundClassifier.from_pretrained(folder, device="cpu")
    assert (classifier.labels, classifier.window_seconds) == (list(CLASSES), 2.0)
    assert (classifier.longest_seconds, classifier.shortest_samples) == (2.0, 160)
    sound = next(synthetic_root.rglob("*.wav"))
    result = classifier.classify(sound)
    assert result.windows and sum(score for _, score in classifier.classify(sound, top_k=10).windows[0].top) == (
        pytest.approx(1, abs=1e-5)
    )
    with pytest.raises(UserError, match="a window of 3 s is longer than the 2 s"):
        classifier.classify(sound, window_seconds=3.0)


def test_the_rules_of_a_new_familys_record_hold_before_training(bands, synthetic_root, tmp_path):
    (tmp_path / "tiny.yaml").write_text(TINY, encoding="utf-8")
    flags = ["--data_dir", str(synthetic_root), "--model_name_or_path", "bands", "--model_config", "hidden_size=12"]
    argv = [*flags, "--clip_seconds", "11", "--output_dir", str(tmp_path / "run")]
    with pytest.raises(UserError, match="this model takes clips of at most 10 s, found 11"):
        run_experiment(parse_run_config(argv, tmp_path / "tiny.yaml"))


# The number of files that a family takes


def names_in(path: Path) -> set[str]:
    """Every string and every imported module in a file."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            found.add(node.value)
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module or "")
    return found


@pytest.mark.parametrize("folder", ["clap", "cnn", "ecapa_tdnn", "yamnet"])
def test_a_family_of_ours_is_known_to_its_folder_and_families_yaml_only(folder):
    package = ROOT / "urbansound_hf"
    (family,) = [each for each in families() if f".{folder}." in each.modeling]
    known = []
    for path in sorted(package.rglob("*.py")):
        places = {name for name in names_in(path) if name.startswith(f"urbansound_hf.models.{folder}")}
        if places or family.model_type in names_in(path):
            known.append(str(path.relative_to(package)))
    outside = [path for path in known if not path.startswith(f"models/{folder}/")]
    zero_shot = ["inference/classifier.py"] if folder == "clap" else []  # classification without training
    assert outside == zero_shot and f"\n{family.model_type}:" in (package / "models/families.yaml").read_text("utf-8")


# The records and the classes


@pytest.mark.parametrize("name", FAMILIES)
def test_the_record_agrees_with_the_classes(name):
    if name in NEEDS:
        pytest.importorskip(NEEDS[name])
    model, extractor = load(name, 1.0)
    family = family_of(model.config.model_type)
    assert family_of(name) is family
    longest = family.lengths.longest_seconds(extractor)
    half, whole = (extract(extractor, noise(extractor, seconds)) for seconds in (0.5, 1.0))
    fixed = all(half[key].shape == whole[key].shape for key in whole)
    assert (longest is not None) == fixed or name == "yamnet", "patches of 0.96 s hold both"
    assert longest in (None, 10.0 if family.takes_over else pytest.approx(1.0, abs=0.02))
    if family.linear_layers:
        layers = linear_layers(model)
        assert layers[-1].out_features == len(LABELS) and all(isinstance(each, torch.nn.Linear) for each in layers)
    shortest = family.lengths.shortest_samples(model.config)
    assert shortest in (1, 400, 720)
    if shortest > 1:  # exact: one sample less leaves no frame
        clip = torch.from_numpy(noise(extractor, 1.0))[None]
        assert torch.isfinite(model.eval()(clip[:, :shortest]).logits).all()
        with pytest.raises(RuntimeError, match=r"Kernel size can't be greater|Output size is too small"):
            model(clip[:, : shortest - 1])


@pytest.mark.parametrize("model_type", ["of-another-package", ""])
def test_a_type_that_is_not_in_the_table_has_a_record_without_facts(model_type):
    family = family_of(model_type)
    assert family.spectrogram is None and not family.linear_layers and family.lengths.longest_seconds(None) is None
