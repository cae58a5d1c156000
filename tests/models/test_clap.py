"""CLAP's audio tower: a whole CLAP opens as a classifier, captions become heads, and every score repeats."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from tokenizers.pre_tokenizers import ByteLevel
from torch.testing import assert_close
from transformers import (
    AutoFeatureExtractor,
    AutoModelForAudioClassification,
    ClapConfig,
    ClapFeatureExtractor,
    ClapModel,
    RobertaTokenizer,
    pipeline,
)

from urbansound_hf import cli
from urbansound_hf.errors import UserError, exit_code
from urbansound_hf.inference.classifier import SoundClassifier
from urbansound_hf.inference.torch_backend import TorchBackend
from urbansound_hf.models import adapt
from urbansound_hf.models.clap import zero_shot
from urbansound_hf.models.clap.modeling_clap_audio import (
    ClapAudioClassificationConfig,
    ClapAudioFeatureExtractor,
    ClapForAudioClassification,
)
from urbansound_hf.models.linear_probe import LinearProbe, embed
from urbansound_hf.models.loading import load_feature_extractor, load_model
from urbansound_hf.models.registry import family_of

RATE = 48_000
LABELS = ["dog bark", "siren", "street music"]
TOWER = {"patch_size": 8, "patch_stride": [8, 8], "window_size": 4, "depths": [1, 1], "num_attention_heads": [1, 2],
         "patch_embeds_hidden_size": 8, "hidden_size": 16, "projection_dim": 8, "initializer_factor": 3.0}  # fmt: skip
TEXT = {"vocab_size": 261, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16,
        "max_position_embeddings": 64, "initializer_factor": 3.0}  # fmt: skip
FUSION = {"enable_fusion": True, "aff_block_r": 2}


def tiny(**settings) -> ClapForAudioClassification:
    torch.manual_seed(0)
    names = {"id2label": dict(enumerate(LABELS)), "label2id": {label: i for i, label in enumerate(LABELS)}}
    return ClapForAudioClassification(ClapAudioClassificationConfig(**TOWER, **names, **settings)).eval()


def sound(seconds: float, seed: int = 0) -> np.ndarray:
    """Noise in a band of its own for each seed: `(samples,)` float32."""
    noise = np.random.default_rng(seed).uniform(-0.5, 0.5, round(seconds * RATE))
    return np.convolve(noise, np.ones(1 + 7 * seed), mode="same").astype(np.float32)


def features(*waveforms: np.ndarray, **settings) -> dict[str, torch.Tensor]:
    return ClapAudioFeatureExtractor(**settings)(list(waveforms), sampling_rate=RATE, return_tensors="pt")


def save_clap(folder: Path, truncation: str = "rand_trunc", **tower) -> ClapModel:
    """A whole CLAP of random weights, saved as LAION's are: both towers, tokenizer, the stock feature extractor."""
    torch.manual_seed(0)
    clap = ClapModel(ClapConfig(audio_config={**TOWER, **tower}, text_config=TEXT, projection_dim=8)).eval()
    with torch.no_grad():
        for name, tensor in clap.state_dict().items():
            if name.endswith("running_mean"):
                tensor.fill_(-30.0)  # dB: what pretraining has left in the batch norm of the mel bands
            if name.endswith("running_var") and "batch_norm" in name:
                tensor.fill_(200.0)
    clap.save_pretrained(folder)
    extra = {"nb_max_frames": 1000, "chunk_length_s": 10, "n_fft": 1024}  # left over in LAION's files
    ClapFeatureExtractor(frequency_min=50, truncation=truncation, **extra).save_pretrained(folder)
    tokens = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", *sorted(ByteLevel.alphabet())]
    RobertaTokenizer({token: i for i, token in enumerate(tokens)}, merges=[]).save_pretrained(folder)
    return clap


@pytest.fixture(scope="module")
def clap(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("clap")
    save_clap(folder)
    return folder


@pytest.fixture(scope="module")
def fused(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("fused")
    save_clap(folder, "fusion", **FUSION)
    return folder


# The feature extractor


@pytest.mark.parametrize("truncation", ["rand_trunc", "fusion"])
@pytest.mark.parametrize("samples", [1, 4 * RATE, 10 * RATE])
def test_up_to_ten_seconds_the_features_are_the_originals(truncation, samples):
    waveform = sound(samples / RATE, seed=1)
    original = ClapFeatureExtractor(frequency_min=50, truncation=truncation)
    wanted = original(waveform, sampling_rate=RATE, return_tensors="pt")
    found = features(waveform, truncation=truncation)
    assert found["input_features"].equal(wanted["input_features"])
    assert found["input_features"].shape == (1, 4 if truncation == "fusion" else 1, 1001, 64)
    assert ("is_longer" in found) == (truncation == "fusion")
    assert "is_longer" not in found or found["is_longer"].equal(wanted["is_longer"])


@pytest.mark.parametrize("truncation", ["rand_trunc", "fusion"])
def test_nothing_is_drawn_at_random_and_no_clip_depends_on_its_neighbours(truncation):
    clips = [sound(12.0), sound(12.0)[: 10 * RATE], sound(0.3, seed=1)]
    together = features(*clips, truncation=truncation)
    for number, clip in enumerate(clips):
        for name, values in features(clip, truncation=truncation).items():
            assert values[0].equal(together[name][number])
    assert together["input_features"][0].equal(together["input_features"][1])


def test_what_the_extractor_refuses():
    extractor = ClapAudioFeatureExtractor()
    with pytest.raises(ValueError, match="48000 and not 16000"):
        extractor(sound(1.0), sampling_rate=16_000)
    with pytest.raises(ValueError, match=r"mono waveforms \(samples,\), found the shape \(2, 100\)"):
        extractor(np.zeros((1, 2, 100), np.float32))
    with pytest.raises(ValueError, match=r"found the shape \(0,\)"):
        extractor(np.zeros(0, np.float32))
    assert extractor(sound(0.1).tolist(), return_tensors="np")["input_features"].dtype == np.float32


# A whole CLAP as a classifier


def test_a_whole_clap_opens_as_a_classifier_with_its_tower_and_projection(clap):
    model, report = AutoModelForAudioClassification.from_pretrained(clap, num_labels=3, output_loading_info=True)
    assert type(model) is ClapForAudioClassification and type(model.config) is ClapAudioClassificationConfig
    assert report["missing_keys"] == {"classifier.weight", "classifier.bias"} and not report["unexpected_keys"]
    inputs = features(sound(2.0))
    with torch.inference_mode():
        wanted = ClapModel.from_pretrained(clap).get_audio_features(**inputs).pooler_output  # of length 1
        assert torch.allclose(model.norm(model.eval().clap(**inputs).audio_embeds), wanted * 8**0.5, atol=1e-5)
        assert model(**inputs).logits.shape == (1, 3)


@pytest.mark.parametrize("whole", ["clap", "fused"])
def test_training_starts_from_a_whole_clap(whole, request):
    folder = request.getfixturevalue(whole)
    extractor = load_feature_extractor(folder)
    model = load_model(folder, LABELS, overrides={"hidden_dropout_prob": 0.3}).eval()
    assert (type(extractor), extractor.sampling_rate) == (ClapAudioFeatureExtractor, RATE)
    assert (extractor.frequency_min, family_of("clap-audio").lengths.longest_seconds(extractor)) == (50, 10.0)
    assert (model.config.hidden_dropout_prob, model.config.clip_seconds) == (0.3, 4.0)
    assert list(model.config.id2label.values()) == LABELS
    stock = ClapModel.from_pretrained(folder).audio_model.state_dict()
    assert all(stock[name].equal(weight) for name, weight in model.clap.audio_model.state_dict().items())
    inputs = extractor(sound(1.0), return_tensors="pt")
    assert model(**inputs, labels=torch.tensor([1])).loss.isfinite()


@pytest.mark.parametrize("name", ["clap", "clap-audio"])
def test_a_model_type_starts_from_random_weights(name):
    extractor = load_feature_extractor(name)
    model = load_model(name, LABELS, overrides=TOWER)
    assert type(model) is ClapForAudioClassification and type(extractor) is ClapAudioFeatureExtractor
    assert model(**extractor(sound(0.5), return_tensors="pt")).logits.shape == (1, 3)
    with pytest.raises(UserError, match=r"need 2 num_attention_heads and a hidden_size of 192; found .* 768") as caught:
        load_model(name, LABELS, overrides={"depths": [1, 1]})
    assert caught.value.where == "--model_config"


def test_an_untrained_clap_is_not_served_as_a_classifier(clap):
    with pytest.raises(UserError, match=r"not a trained classifier: it holds no classifier.bias, classifier.weight"):
        SoundClassifier.from_pretrained(clap)


# Training


@pytest.mark.parametrize("freeze", ["none", "backbone"])
def test_learns_whole_and_as_a_probe(freeze):
    model = tiny(hidden_dropout_prob=0.0)
    adapt.freeze(model, freeze)
    before = {name: weight.clone() for name, weight in model.clap.state_dict().items()}
    batch, labels = features(*(sound(1.0, seed) for seed in (0, 0, 9, 9))), torch.tensor([0, 0, 1, 1])
    groups = adapt.parameter_groups(model, 3e-3, weight_decay=0.0, head_learning_rate=0.05, layer_decay=0.9)
    optimizer, losses = torch.optim.AdamW(groups), []
    for _ in range(12):
        loss = model.train()(**batch, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
    frozen = all(before[name].equal(weight) for name, weight in model.clap.state_dict().items())
    assert frozen == (freeze == "backbone")
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad), "DDP waits for every gradient"


def test_backbone_layers_and_probe_are_those_of_the_house():
    model, inputs = tiny(), features(sound(1.0), sound(3.0, seed=3))
    assert adapt.backbone(model) is model.clap
    assert [type(stage).__name__ for stage in adapt.layers(model)] == ["ClapAudioStage"] * 2
    with torch.inference_mode():
        logits = model(**inputs).logits
        assert torch.allclose(LinearProbe(model)(embed(model, inputs)).logits, logits, atol=1e-6)
    assert (logits[0] - logits[1]).abs().max() > 1e-2
    adapt.freeze(model, "backbone", unfreeze_last_n=1)
    learning = {name.split(".")[0] for name, p in model.named_parameters() if p.requires_grad}
    assert learning == {"clap", "classifier"}
    assert all(p.requires_grad for p in model.clap.audio_model.audio_encoder.layers[-1].parameters())


# The checkpoint


@pytest.mark.parametrize("fusion", [False, True])
def test_survives_saving(tmp_path, fusion):
    model, truncation = tiny(**FUSION if fusion else {}), "fusion" if fusion else "rand_trunc"
    model.save_pretrained(tmp_path)
    ClapAudioFeatureExtractor(truncation=truncation, frequency_max=12_000).save_pretrained(tmp_path)
    extractor = AutoFeatureExtractor.from_pretrained(tmp_path)
    again = AutoModelForAudioClassification.from_pretrained(tmp_path).eval()
    assert type(again) is ClapForAudioClassification and type(extractor) is ClapAudioFeatureExtractor
    assert (extractor.truncation, extractor.frequency_max) == (truncation, 12_000)
    inputs = extractor(sound(2.0), sampling_rate=RATE, return_tensors="pt")
    with torch.inference_mode():
        assert_close(again(**inputs).logits, model(**inputs).logits)
    other = AutoModelForAudioClassification.from_pretrained(tmp_path, num_labels=7, ignore_mismatched_sizes=True)
    assert other.classifier.out_features == 7


def test_opens_elsewhere_without_this_package(tmp_path, clap, elsewhere_python):
    """A zero-shot head too: once the captions are in it, no text tower is needed."""
    model, extractor = zero_shot.load_zero_shot(clap, LABELS)
    model.save_pretrained(tmp_path / "model")
    extractor.save_pretrained(tmp_path / "model")
    np.save(tmp_path / "waveform.npy", sound(11.0, seed=2))
    program = (
        "import json; import numpy; from transformers import pipeline;"
        "classify = pipeline('audio-classification', model='model', trust_remote_code=True);"
        "print(json.dumps(classify({'array': numpy.load('waveform.npy'), 'sampling_rate': 48000})))"
    )
    done = elsewhere_python.run(program, tmp_path)
    assert done.returncode == 0, done.stderr
    (scores,) = SoundClassifier(TorchBackend(model, extractor, "cpu")).probabilities([sound(11.0, seed=2)])
    found = {entry["label"]: entry["score"] for entry in json.loads(done.stdout)}
    assert found == pytest.approx(dict(zip(LABELS, scores.tolist(), strict=True)), abs=1e-4)


# Zero-shot


@pytest.mark.parametrize("whole", ["clap", "fused"])
def test_zero_shot_scores_are_those_of_the_stock_pipeline(whole, request):
    folder = request.getfixturevalue(whole)
    stock = pipeline("zero-shot-audio-classification", model=str(folder), device="cpu")
    clips = [sound(seconds, seed) for seed, seconds in enumerate((0.2, 4.0, 10.0))]
    wanted = [{a["label"]: a["score"] for a in stock(clip, candidate_labels=LABELS)} for clip in clips]
    scores = SoundClassifier.zero_shot(folder, LABELS, device="cpu").probabilities(clips)
    np.testing.assert_allclose(scores, [[row[label] for label in LABELS] for row in wanted], atol=1e-4)
    apart = [np.abs(scores[:, a] - scores[:, b]).max() for a, b in ((0, 1), (0, 2), (1, 2))]
    assert min(apart) > 0.05, "the labels must be told apart, or nothing is compared"
    assert np.ptp(scores, axis=0).max() > 0.05, "and so must the clips"


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Runs infer.py on clip.wav in this process: exit code, standard output, standard error."""
    monkeypatch.chdir(tmp_path)
    soundfile.write("clip.wav", sound(1.0), RATE)

    def run_infer(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["infer.py", "clip.wav", *arguments, "--device", "cpu"])
        return exit_code(lambda: cli.infer(sys.argv[1:])), *capsys.readouterr()

    return run_infer


def test_infer_chooses_from_the_labels_it_is_given(run, clap):
    code, out, _ = run("--labels", "dog bark, siren", "--model", str(clap), "--format", "jsonl")
    top = json.loads(out)["top"]
    assert code == 0 and {entry["label"] for entry in top} == {"dog bark", "siren"}
    assert sum(entry["score"] for entry in top) == pytest.approx(1)
    soundfile.write("clip.wav", sound(11.0), RATE)
    code, out, _ = run("--labels", "dog bark,siren", "--model", str(clap))
    assert code == 0 and "mean of 2 windows" in out, "of 10 s, the longest that CLAP takes"
    code, _, err = run("--labels", "dog bark,siren", "--model", str(clap), "--window_seconds", "11")
    assert code == 2 and "longer than the 10 s that this model takes" in err


@pytest.mark.parametrize("labels", ["", "siren", "siren, siren", "siren,,dog bark"])
def test_labels_that_leave_nothing_to_choose_are_refused(run, clap, labels):
    code, _, err = run("--labels", labels, "--model", str(clap))
    assert code == 2 and "at least two different sounds to choose from; found '" in err and "separate them" in err


def test_a_model_without_text_tower_or_tokenizer_is_told_so(run, clap, tmp_path):
    tiny().save_pretrained(tmp_path / "trained")
    ClapAudioFeatureExtractor().save_pretrained(tmp_path / "trained")
    code, _, err = run("--labels", "a,b", "--model", "trained")
    assert code == 2 and "needs a CLAP with its text tower; it is a clap-audio model" in err and "--model laion/" in err
    ClapForAudioClassification.from_pretrained(clap, num_labels=2).save_pretrained(tmp_path / "half")
    for name in ("config.json", "preprocessor_config.json", "tokenizer.json", "tokenizer_config.json"):
        (tmp_path / "half" / name).write_bytes((clap / name).read_bytes())
    code, _, err = run("--labels", "a,b", "--model", "half")
    assert code == 2 and "text tower; the weights lack text_projection.linear2.weight" in err
    for name in ("config.json", "preprocessor_config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((clap / name).read_bytes())
    code, _, err = run("--labels", "a,b", "--model", str(tmp_path))
    assert code == 2 and "its vocabulary is missing" in err and "tokenizer.json" in err
    code, _, err = run("--labels", "a,b", "--model", "gone/at/all")
    assert code == 2 and "there is no such folder" in err
    code, _, err = run("--labels", "a,b")
    assert code == 2 and err.startswith("model: laion/clap-htsat-unfused") and "the Hub cannot be reached" in err
