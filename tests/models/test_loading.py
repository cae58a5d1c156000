"""Every family through one test: build, freeze, train a step, save, and classify as the stock pipeline does."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoFeatureExtractor, AutoModelForAudioClassification, pipeline

from tests.conftest import WHISPER
from tests.helpers import tiny
from urbansound_hf.config.parse import key_values
from urbansound_hf.errors import UserError
from urbansound_hf.features.dataset import collate_training
from urbansound_hf.features.extract import as_tensors, extract
from urbansound_hf.inference.classifier import SoundClassifier
from urbansound_hf.models import adapt, loading
from urbansound_hf.models.loading import load_feature_extractor, load_model
from urbansound_hf.models.registry import family_of, known_types

LABELS = ["bark", "horn", "rain"]
WIDTHS = ["hidden_size=16", "num_hidden_layers=2", "num_attention_heads=2", "intermediate_size=16"]
FRONT = ["num_conv_pos_embeddings=4", "num_conv_pos_embedding_groups=2", "layerdrop=0", "initializer_range=0.3"]
WAV2VEC2 = [*WIDTHS, *FRONT, "conv_dim=[8,8,8,8,8,8,8]", "mask_time_prob=0"]
SEW = [*WIDTHS, *FRONT, "conv_dim=[8,8,8,8,8,8,8,8,8,8,8,8,8]", "mask_time_prob=0"]
CLAP = ["patch_size=8", "patch_stride=[8,8]", "window_size=4", "depths=[1,1]", "num_attention_heads=[1,2]",
        "patch_embeds_hidden_size=8", "hidden_size=16", "projection_dim=8", "initializer_factor=20.0"]  # fmt: skip
SEW_D = [pair for pair in SEW if pair != "layerdrop=0"]
TINY = {
    "audio-spectrogram-transformer": [*WIDTHS, "initializer_range=0.3"],
    "data2vec-audio": WAV2VEC2,
    "hubert": WAV2VEC2,
    "sew": SEW,
    "sew-d": SEW_D,
    "unispeech": WAV2VEC2,
    "unispeech-sat": WAV2VEC2,
    "wav2vec2": WAV2VEC2,
    "wav2vec2-bert": [*WIDTHS, "layerdrop=0", "initializer_range=0.3", "mask_time_prob=0"],
    "wav2vec2-conformer": WAV2VEC2,
    "wavlm": WAV2VEC2,
    "whisper": ["d_model=16", "encoder_layers=2", "encoder_attention_heads=2", "encoder_ffn_dim=16", "init_std=0.3"],
    "clap": CLAP,
    "clap-audio": CLAP,
    "cnn": ["hidden_sizes=[4,4,8,8]"],
    "ecapa-tdnn": ["channels=[8,8,8,8,16]", "attention_channels=8", "res2net_scale=4", "se_channels=8"],
    "yamnet": ["channels=[8,8,16]", "strides=[2,2,2]"],
}
NEEDS = {"ecapa-tdnn": "speechbrain"}  # packages of the extras
WITHOUT_FRONT = {
    "audio-spectrogram-transformer",
    "clap",
    "clap-audio",
    "cnn",
    "ecapa-tdnn",
    "wav2vec2-bert",
    "whisper",
    "yamnet",
}
WITH_FRONT = set(TINY) - WITHOUT_FRONT


def build(name, model_config=(), clip_seconds: float = 1.0, labels=LABELS, **options):
    """A model and its extractor, of `KEY=VALUE` pairs as the flags take them; `options` are `load_model`'s."""
    extractor = load_feature_extractor(name, clip_seconds=clip_seconds)
    overrides = key_values(model_config)
    return load_model(name, labels, clip_seconds=clip_seconds, overrides=overrides, **options), extractor


def load(family: str, clip_seconds: float = 1.0):
    if family in NEEDS:
        pytest.importorskip(NEEDS[family])
    torch.manual_seed(0)
    return build(family, TINY[family], clip_seconds)


def noise(extractor, seconds: float, seed: int = 0) -> np.ndarray:
    """Noise in a band of its own for each seed: `(samples,)` float32 at the extractor's rate."""
    white = np.random.default_rng(seed).uniform(-0.5, 0.5, round(seconds * extractor.sampling_rate))
    return np.convolve(white, np.ones(1 + 5 * seed) / (1 + 3 * seed), mode="same").astype(np.float32)


def step(model, extractor) -> None:
    """One optimizer step on two clips."""
    groups = adapt.parameter_groups(model, learning_rate=1e-3, weight_decay=0.1)
    batch = collate_training(
        [{**extract(extractor, noise(extractor, 1.0, seed)), "labels": np.int64(seed), "clip": seed} for seed in (0, 1)]
    )
    optimizer = torch.optim.AdamW(groups)
    model.train()(**batch).loss.backward()
    optimizer.step()


def state(model) -> dict[str, torch.Tensor]:
    return {name: values.detach().clone() for name, values in model.state_dict().items()}


def changed(model, before: dict[str, torch.Tensor]) -> set[str]:
    return {name for name, values in model.state_dict().items() if not torch.equal(values, before[name])}


def trainable(model) -> set[str]:
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def test_every_known_type_is_tested_here():
    assert sorted(TINY) == known_types(), "give a new family its tiny config above"


# Freezing


@pytest.mark.parametrize("family", TINY)
def test_freezing_freezes_what_it_says_and_a_step_moves_the_rest_only(family):
    for what, last in (("none", 0), ("feature_encoder", 0), ("backbone", 0), ("backbone", 1)):
        model, extractor = load(family)
        all_of_it = trainable(model)
        adapt.freeze(model, what, last)
        inside = {
            name
            for name in all_of_it
            if any(p is model.get_parameter(name) for p in adapt.backbone(model).parameters())
        }
        last_layer = {
            name for name in inside if any(p is model.get_parameter(name) for p in adapt.layers(model)[-1].parameters())
        }
        front = {name for name in all_of_it if "feature_extractor." in name} if family in WITH_FRONT else set()
        frozen = {"none": set(), "feature_encoder": front, "backbone": inside - (last_layer if last else set())}[what]
        assert all_of_it - trainable(model) == frozen, f"{what}, {last}"
        assert bool(frozen) == (what == "backbone" or (what == "feature_encoder" and family in WITH_FRONT))
        before = state(model)
        step(model, extractor)
        moved = changed(model, before)
        norms = {name for name in moved if name.endswith(("running_mean", "running_var", "num_batches_tracked"))}
        assert moved - norms <= trainable(model), "what is frozen stays"
        assert len(moved - norms) >= 0.9 * len(trainable(model)), (
            "what is not moves (an unused mask embedding does not)"
        )
        assert what != "backbone" or last or not norms, "a frozen batch norm does not follow the batches"


def test_more_layers_than_there_are_may_learn():
    model, _ = load("wav2vec2")
    adapt.freeze(model, "backbone", 99)
    assert {id(p) for layer in adapt.layers(model) for p in layer.parameters()} <= {
        id(p) for p in model.parameters() if p.requires_grad
    }


# Parameter groups


@pytest.mark.parametrize("family", TINY)
def test_every_trainable_parameter_is_in_one_group_and_only_matrices_decay(family):
    for what in ("none", "backbone"):
        model, _ = load(family)
        adapt.freeze(model, what)
        groups = adapt.parameter_groups(model, 1.0, 0.01, head_learning_rate=7.0, layer_decay=0.5)
        grouped = [id(parameter) for group in groups for parameter in group["params"]]
        assert len(grouped) == len(set(grouped))
        assert set(grouped) == {id(parameter) for parameter in model.parameters() if parameter.requires_grad}
        for group in groups:
            assert {parameter.ndim > 1 for parameter in group["params"]} == {group["weight_decay"] == 0.01}


@pytest.mark.parametrize("family", TINY)
def test_the_rates_grow_from_layer_to_layer(family):
    model, _ = load(family)
    groups = adapt.parameter_groups(model, 1.0, 0.01, head_learning_rate=7.0, layer_decay=0.5)
    rate = {id(parameter): group["lr"] for group in groups for parameter in group["params"]}
    depth = len(adapt.layers(model))
    assert depth == len(adapt.layers(model)) > 1
    for number, layer in enumerate(adapt.layers(model)):
        rates = {rate[id(parameter)] for parameter in layer.parameters()}
        assert rates == {0.5 ** (depth - 1 - number)}
    inside = {id(parameter) for parameter in adapt.backbone(model).parameters()}
    assert {rate[id(p)] for p in model.parameters() if p.requires_grad and id(p) not in inside} == {7.0}
    first = next(parameter for parameter in adapt.backbone(model).parameters() if parameter.requires_grad)
    if all(first is not parameter for parameter in adapt.layers(model)[0].parameters()):
        assert rate[id(first)] == 0.5**depth, "what stands before the first layer"


def test_a_norm_after_the_last_layer_learns_like_it():
    for family, norm in (("audio-spectrogram-transformer", "layernorm.weight"), ("whisper", "layer_norm.weight")):
        model, _ = load(family)
        groups = adapt.parameter_groups(model, 1.0, 0.0, layer_decay=0.5)
        rate = {id(parameter): group["lr"] for group in groups for parameter in group["params"]}
        assert rate[id(adapt.backbone(model).get_parameter(norm))] == 1.0


def test_the_head_learns_like_the_last_layer_unless_told_otherwise():
    model, _ = load("wav2vec2")
    assert {group["lr"] for group in adapt.parameter_groups(model, 0.3, 0.0)} == {0.3}


def test_count_parameters():
    model = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 1))
    model[0].requires_grad_(False)
    assert adapt.count_parameters(model) == {"parameters": 11, "trained_parameters": 3}


# Saved and opened again


@pytest.mark.parametrize("family", TINY)
def test_the_stock_pipeline_gives_the_scores_of_serving(family, tmp_path):
    model, extractor = load(family)
    step(model, extractor)
    model.save_pretrained(tmp_path)
    extractor.save_pretrained(tmp_path)
    classifier = SoundClassifier.from_pretrained(tmp_path, device="cpu")
    assert classifier.labels == LABELS and classifier.window_seconds == 1.0
    clips = [noise(extractor, 1.0, 1), noise(extractor, 0.3, 2)]
    scores = classifier.probabilities(clips)
    assert np.abs(scores[0] - scores[1]).max() > 1e-3, "the clips must be told apart, or nothing is compared"
    stock, rate = pipeline("audio-classification", model=str(tmp_path), device="cpu"), extractor.sampling_rate
    for clip, row in zip(clips, scores, strict=True):
        answers = {each["label"]: each["score"] for each in stock({"array": clip, "sampling_rate": rate}, top_k=None)}
        np.testing.assert_allclose(row, [answers[label] for label in LABELS], atol=1e-5)


@pytest.mark.parametrize("family", ["wav2vec2", "whisper", "yamnet"])
def test_a_checkpoint_is_fine_tuned_to_other_labels_and_keeps_its_backbone(family, tmp_path):
    model, extractor = load(family)
    model.save_pretrained(tmp_path)
    extractor.save_pretrained(tmp_path)
    other, again = build(tmp_path, labels=["x", "y", "z", "v"])
    assert type(again) is type(extractor) and type(other) is type(model)
    assert other.config.label2id == {"x": 0, "y": 1, "z": 2, "v": 3} and other.dtype == torch.float32
    assert other.config.problem_type == "single_label_classification"
    for before, after in zip(adapt.backbone(model).parameters(), adapt.backbone(other).parameters(), strict=True):
        torch.testing.assert_close(before, after)
    assert other.classifier.out_features == 4


# Short context


@pytest.mark.parametrize("family", ["whisper", "audio-spectrogram-transformer"])
def test_a_model_cut_to_two_seconds_opens_with_stock_classes(family, tmp_path):
    model, extractor = load(family, 2.0)
    inputs = as_tensors({k: v[None] for k, v in extract(extractor, noise(extractor, 2.0)).items()})
    assert 200 in next(iter(inputs.values())).shape, "frames"
    model.save_pretrained(tmp_path)
    extractor.save_pretrained(tmp_path)
    stock = AutoModelForAudioClassification.from_pretrained(tmp_path).eval()
    stock_inputs = AutoFeatureExtractor.from_pretrained(tmp_path)(
        noise(extractor, 2.0), sampling_rate=16_000, return_tensors="pt"
    )
    with torch.no_grad():
        torch.testing.assert_close(stock(**stock_inputs).logits, model.eval()(**inputs).logits)


def test_a_new_head_is_a_line_and_so_are_weights_that_a_checkpoint_lacks(tmp_path, capfd):
    folder = tiny.save("wav2vec2", tmp_path / "whole")
    load_model(folder, ["a", "b", "c"])
    told = capfd.readouterr()
    assert "new head for 3 classes\n" in told.err and "REPORT" not in told.out + told.err
    assert "at random" not in told.err
    weights = load_file(folder / "model.safetensors")
    lacking = {name: values for name, values in weights.items() if "layers.1." not in name}
    save_file(lacking, folder / "model.safetensors", {"format": "pt"})
    load_model(folder, ["a", "b", "c"])
    assert "not in the checkpoint, drawn at random: wav2vec2.encoder.layers.1." in capfd.readouterr().err


def test_the_cut_table_of_whisper_is_the_head_of_the_whole():
    whole, _ = load("whisper", 30.0)
    cut, extractor = load("whisper", 1.2)  # its extractor counts in whole seconds
    table = whole.encoder.embed_positions.weight
    assert table.shape == (1500, 16) and extractor.chunk_length == 2
    torch.testing.assert_close(cut.encoder.embed_positions.weight, table[:100])
    assert not cut.encoder.embed_positions.weight.requires_grad, "as in the whole model"


def test_the_cut_table_of_ast_is_the_middle_of_the_whole():
    model, _ = load("audio-spectrogram-transformer", 10.24)
    embeddings = model.audio_spectrogram_transformer.embeddings
    whole = torch.arange(2 + 12 * 101.0)[None, :, None].expand(-1, -1, 16)  # two tokens, 12 bands of 101 columns
    embeddings.position_embeddings.data.copy_(whole)
    family_of("audio-spectrogram-transformer").lengths.fit_model(model, 2.0)
    cut = embeddings.position_embeddings
    assert cut.shape == (1, 2 + 12 * 19, 16) and cut.requires_grad
    torch.testing.assert_close(cut[:, :2], whole[:, :2])
    bands = cut[:, 2:].unflatten(1, (12, 19))
    torch.testing.assert_close(bands, whole[:, 2:].unflatten(1, (12, 101))[:, :, 41:60])


@pytest.mark.parametrize(
    ("family", "refused", "heard", "rule"),
    [
        ("whisper", 30.5, 30.0, "takes clips of 1 to 30 s, found 31"),
        ("audio-spectrogram-transformer", 11.0, 10.24, "takes clips of at most 10.24 s, found 11"),
        ("audio-spectrogram-transformer", 0.1, 0.16, "takes clips of 0.16 to 10.24 s, found 0.1"),
    ],
)
def test_clips_that_a_fixed_length_model_cannot_hear(family, refused, heard, rule):
    with pytest.raises(UserError, match=rule) as caught:
        load(family, refused)
    assert caught.value.where == "--clip_seconds" and "give at most" in caught.value.fix
    model, extractor = load(family, heard)
    assert torch.isfinite(
        model(**extractor(noise(extractor, heard), sampling_rate=16_000, return_tensors="pt")).logits
    ).all()


@pytest.mark.real
def test_the_published_whisper_loads_and_is_cut():
    model, extractor = build(WHISPER, clip_seconds=4.0)
    sinusoids = AutoModelForAudioClassification.from_pretrained(WHISPER).encoder.embed_positions.weight
    torch.testing.assert_close(model.encoder.embed_positions.weight, sinusoids[:200].float())  # stored in float16
    inputs = extractor(noise(extractor, 4.0), sampling_rate=16_000, return_tensors="pt")
    assert inputs["input_features"].shape == (1, 80, 400) and model(**inputs).logits.shape == (1, 3)


# Mistakes


@pytest.mark.parametrize(
    ("name", "config", "extractor_config", "rule", "where"),
    [
        ("bert", [], [], "bert models cannot classify audio", "--model_name_or_path"),
        ("encodec", [], [], "encodec models cannot classify audio", "--model_name_or_path"),
        (
            "no/such-model",
            [],
            [],
            "the Hub cannot be reached, and no/such-model is neither in the cache",
            "--model_name_or_path",
        ),
        ("wav2vec2", ["hiden_size=8"], [], "there is no 'hiden_size'", "--model_config"),
        ("wav2vec2", ["hidden_size=big"], [], "expected int, got str", "--model_config"),
        ("whisper", ["d_model=33"], [], "embed_dim must be divisible by num_heads", "--model_config"),
        ("yamnet", ["channels=[1,2]"], [], "a stride of 1 or 2 for each layer", "--model_config"),
        ("cnn", [], ["feature=mel"], "feature must be one of mfcc, log_mel", "--feature_extractor_config"),
        ("whisper", [], ["n_mel=80"], "there is no 'n_mel'", "--feature_extractor_config"),
    ],
)
def test_mistakes_are_told_with_the_way_out(name, config, extractor_config, rule, where):
    with pytest.raises(UserError, match=rule) as caught:
        load_feature_extractor(name, overrides=key_values(extractor_config))
        build(name, config)
    assert caught.value.where == where and caught.value.fix


def test_weights_that_are_not_yet_converted_are_not_looked_for_on_the_hub(monkeypatch):
    monkeypatch.setattr(loading, "hf_hub_download", lambda *_, **__: pytest.fail("asked elsewhere"))
    with pytest.raises(UserError, match="there is no such folder") as caught:
        load_feature_extractor("outputs/yamnet_audioset_/yamnet_audioset")
    assert "urbansound-hf models yamnet convert MODEL.onnx outputs/" in caught.value.fix
    with pytest.raises(UserError, match="there is no such folder"):
        load_feature_extractor("outputs/never_trained")


def test_a_mistyped_key_is_answered_with_the_nearest():
    with pytest.raises(UserError, match="nearest: hidden_size"):
        build("wav2vec2", ["hiden_size=8"])


def test_overrides_reach_config_and_extractor():
    extractor = load_feature_extractor("whisper", clip_seconds=1.0, overrides={"dither": 0.5})
    model, _ = build("whisper", TINY["whisper"])
    assert extractor.dither == 0.5 and extractor.chunk_length == 1
    assert (model.config.d_model, model.config.clip_seconds, model.config.num_labels) == (16, 1.0, 3)


def test_a_name_and_labels_are_enough():
    model, extractor = load_model("cnn", ["a", "b"]), load_feature_extractor("cnn")
    clip = noise(extractor, 4.0)
    assert model(**extractor(clip, sampling_rate=16_000, return_tensors="pt")).logits.shape == (1, 2)
    assert model.config.clip_seconds == 4.0 and model.config.label2id == {"a": 0, "b": 1}


def test_an_extractor_keeps_its_own_length_if_none_is_given():
    assert load_feature_extractor("whisper", clip_seconds=None).chunk_length == 30
    assert load_feature_extractor("whisper").chunk_length == 4


def test_key_values_are_typed():
    pairs = ["a=1", "b=2.5", "c=[1,2]", "d=relu", "e=true", "f=null", "g=False", "h=a=b", "i="]
    expected = {"a": 1, "b": 2.5, "c": [1, 2], "d": "relu", "e": True, "f": None, "g": False, "h": "a=b", "i": ""}
    assert key_values(pairs) == expected
