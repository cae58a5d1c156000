"""The tutorial's network to the parameter, pictures against torchaudio and NumPy, and checkpoints that stand alone."""

from __future__ import annotations

import json
import pickle

import numpy as np
import pytest
import torch
from torch.testing import assert_close
from torchaudio.transforms import MFCC, AmplitudeToDB, MelSpectrogram
from transformers import AutoFeatureExtractor, AutoModelForAudioClassification

from urbansound_hf.data.urbansound8k import CLASSES
from urbansound_hf.models.cnn.modeling_cnn import CHOICES, CnnConfig, CnnFeatureExtractor, CnnForAudioClassification

MEL = {"n_fft": 1536, "hop_length": 368, "n_mels": 128, "norm": "slaney", "mel_scale": "slaney", "pad_mode": "constant"}
NAMES = {"id2label": dict(enumerate(CLASSES)), "label2id": {label: i for i, label in enumerate(CLASSES)}}
both = pytest.mark.parametrize("architecture", CHOICES["architecture"])


def sound(seconds: float, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-0.5, 0.5, round(seconds * 16_000)).astype(np.float32)


def picture(waveform: np.ndarray, **settings) -> np.ndarray:
    return CnnFeatureExtractor(**settings)(waveform, sampling_rate=16_000)["input_features"][0]


def build(architecture: str, **settings) -> CnnForAudioClassification:
    torch.manual_seed(0)
    return CnnForAudioClassification(CnnConfig(architecture=architecture, **NAMES, **settings)).eval()


# The pictures


def test_mfccs_are_torchaudios():
    waveform = sound(4.0)
    expected = MFCC(16_000, 40, melkwargs=MEL)(torch.from_numpy(waveform)).numpy()
    found = picture(waveform, scaling="none")
    assert expected.shape == found.shape == (40, 174)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, expected)


def test_log_mels_are_torchaudios_decibels():
    waveform = sound(4.0) * np.linspace(0, 1, 64_000, dtype=np.float32) ** 8
    power = MelSpectrogram(16_000, **{**MEL, "n_mels": 64})(torch.from_numpy(waveform))
    found = picture(waveform, feature="log_mel", n_mels=64, scaling="none")
    np.testing.assert_array_equal(found, AmplitudeToDB("power", 80.0)(power).numpy())
    assert found.max() - found.min() == pytest.approx(80, abs=1e-3)


def test_scaling_is_over_each_coefficient_the_clip_or_nothing():
    waveform = sound(1.0)
    raw = picture(waveform, scaling="none", num_frames=44)
    rows = (raw - raw.mean(1, keepdims=True)) / raw.std(1, keepdims=True)
    np.testing.assert_allclose(picture(waveform, num_frames=44), rows, atol=1e-4)
    whole = (raw - raw.mean()) / raw.std()
    np.testing.assert_allclose(picture(waveform, num_frames=44, scaling="per_clip"), whole, atol=1e-4)


@pytest.mark.parametrize("scaling", CHOICES["scaling"])
def test_a_short_clip_is_padded_after_scaling_and_a_long_one_cut_before(scaling):
    short = picture(sound(1.0), scaling=scaling)  # 1 + 16,000 // 368 frames
    np.testing.assert_array_equal(short[:, :44], picture(sound(1.0), scaling=scaling, num_frames=44))
    assert not short[:, 44:].any()
    assert np.abs(short[:, 43]).min() > 0
    quiet_then_loud = np.concatenate([sound(4.002) * 0.01, sound(3.0)])  # what is cut must not set the decibels' floor
    np.testing.assert_array_equal(
        picture(quiet_then_loud, scaling=scaling), picture(quiet_then_loud[:64_032], scaling=scaling)
    )


@pytest.mark.parametrize("feature", CHOICES["feature"])
@pytest.mark.parametrize("scaling", CHOICES["scaling"])
@pytest.mark.parametrize("samples", [1, 367, 872, 64_000, 64_001, 1_600_000])
def test_every_clip_becomes_a_finite_picture_of_one_size(feature, scaling, samples):
    bands = 40 if feature == "mfcc" else 128
    for waveform in (np.zeros(samples, np.float32), sound(samples / 16_000), np.ones(samples, np.float32)):
        found = picture(waveform, feature=feature, scaling=scaling)
        assert found.shape == (bands, 174)
        assert np.isfinite(found).all()
        assert np.abs(found).max() < 3_000
    assert not picture(np.zeros(samples, np.float32), feature=feature).any()  # silence, once scaled


def test_a_picture_does_not_depend_on_its_neighbours_or_its_container():
    extractor, clips = CnnFeatureExtractor(feature="log_mel"), [sound(0.5) * 1e-4, sound(4.0, 1), sound(9.0, 2)]
    together = extractor(clips, sampling_rate=16_000, return_tensors="pt")["input_features"]
    assert together.shape == (3, 128, 174)
    for clip, row in zip(clips, together, strict=True):
        np.testing.assert_array_equal(extractor(clip)["input_features"][0], row.numpy())
    for same in (
        clips[0].tolist(),
        [clips[0]],
        clips[0][None],
        clips[0].astype(np.float64),
        clips[0][::-1].copy()[::-1],
    ):
        np.testing.assert_array_equal(extractor(same)["input_features"], together[:1].numpy())


def test_what_the_extractor_refuses():
    with pytest.raises(ValueError, match="feature must be one of mfcc, log_mel; found 'mel': did you mean log_mel"):
        CnnFeatureExtractor(feature="mel")
    with pytest.raises(ValueError, match=r"scaling must be one of .* found 'clip': did you mean per_clip"):
        CnnFeatureExtractor(scaling="clip")
    with pytest.raises(ValueError, match="found n_mfcc=40, n_mels=39"):
        CnnFeatureExtractor(n_mels=39)
    assert picture(sound(1.0), n_mels=40).shape == (40, 174)
    with pytest.raises(ValueError, match="must be 16000 Hz; found 44100"):
        CnnFeatureExtractor()(sound(1.0), sampling_rate=44_100)
    with pytest.raises(ValueError, match=r"must be mono and not empty, \(samples,\); found the shape \(16000, 2\)"):
        CnnFeatureExtractor()(np.zeros((1, 16_000, 2), np.float32))
    with pytest.raises(ValueError, match=r"found the shape \(0,\)"):
        CnnFeatureExtractor()(np.zeros(0, np.float32))


# The networks


def test_the_tutorials_network_has_44602_parameters():
    blocks = [(1 * 4 + 1) * 16, (16 * 4 + 1) * 32, (32 * 4 + 1) * 64, (64 * 4 + 1) * 128]
    model = build("tutorial")
    assert [sum(p.numel() for p in block.parameters()) for block in model.backbone.blocks] == blocks
    assert model.num_parameters() == sum(blocks) + 129 * 10 == 44_602
    assert build("residual").num_parameters() == 309_194


def test_the_tutorials_shapes_are_keras_ones_without_padding():
    hidden, sides = torch.zeros(1, 1, 40, 174), []
    for block in build("tutorial").backbone.blocks:
        hidden = block(hidden)
        sides.append(tuple(hidden.shape[2:]))
    assert sides == [(19, 86), (9, 42), (4, 20), (1, 9)]


@both
def test_weights_start_as_keras_does(architecture):
    model = build(architecture)
    assert not model.classifier.bias.any()
    for weight in (p for p in model.parameters() if p.ndim == 4):
        fan_in, fan_out = weight[0].numel(), weight[:, 0].numel()
        limit = (6 / (fan_in + fan_out)) ** 0.5
        assert 0.9 * limit < weight.abs().max() <= limit


@both
@pytest.mark.parametrize("size", [(31, 31), (40, 174), (64, 174), (65, 33)])
def test_any_size_of_picture_gets_scores(architecture, size):
    model = build(architecture)
    assert model(torch.randn(2, *size)).logits.shape == (2, 10)
    assert model(torch.randn(2, *size)).loss is None


def test_a_picture_too_small_for_the_tutorials_network_is_explained():
    with pytest.raises(ValueError, match=r"at least 31 bands and frames; found 20 × 60: take longer clips"):
        build("tutorial")(torch.zeros(1, 20, 60))
    assert build("tutorial", hidden_sizes=[8, 8, 8])(torch.zeros(1, 20, 60)).logits.shape == (1, 10)
    assert build("residual")(torch.zeros(1, 20, 60)).logits.shape == (1, 10)
    with pytest.raises(ValueError, match="found 'resnet': did you mean residual"):
        CnnConfig(architecture="resnet")


def test_the_residual_network_hears_how_high_a_pattern_lies():
    pictures, model = torch.zeros(2, 256, 32), build("residual")  # so high that neither patch's effect meets an edge
    pictures[0, 112:116, 16:20] = pictures[1, 128:132, 16:20] = 1.0  # the same patch 16 bands higher: whole strides
    with torch.inference_mode():
        low, high = model(pictures).logits
        model.backbone.stem[0].weight[:, 1] = 0.0  # without its second channel
        deaf_low, deaf_high = model(pictures).logits
    assert deaf_low.norm() > 1e-5
    assert (low - high).norm() > 100 * (deaf_low - deaf_high).norm()


@both
@pytest.mark.parametrize("soft", [False, True])
def test_learns_and_bears_a_last_batch_of_one(architecture, soft):
    model = build(architecture, dropout=0.0).train()
    pictures, labels = torch.randn(8, 40, 174) + torch.arange(8)[:, None, None] % 2, torch.arange(8) % 2
    targets = torch.nn.functional.one_hot(labels, 10).float() if soft else labels
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for batch in [slice(0, 8)] * 12 + [slice(0, 1)]:
        loss = model(pictures[batch], labels=targets[batch]).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[11] < 0.5 * losses[0]
    assert all(torch.isfinite(p).all() for p in model.state_dict().values())


# The checkpoint


def saved(folder, architecture: str, **settings) -> CnnForAudioClassification:
    model = build(architecture, **settings)
    with torch.no_grad():
        model.classifier.weight *= 10  # random scores would all be near a tenth
        model.train()(torch.randn(4, 40, 174))  # running statistics that differ from the initial ones
    model.eval().save_pretrained(folder)
    return model


@both
def test_survives_saving(tmp_path, architecture):
    model = saved(tmp_path, architecture, clip_seconds=2.0)
    CnnFeatureExtractor(num_frames=90, scaling="per_clip").save_pretrained(tmp_path)
    extractor = AutoFeatureExtractor.from_pretrained(tmp_path)
    again = AutoModelForAudioClassification.from_pretrained(tmp_path).eval()
    assert (type(again), again.config.clip_seconds) == (CnnForAudioClassification, 2.0)
    inputs = extractor(sound(3.0), sampling_rate=16_000, return_tensors="pt")
    assert inputs["input_features"].shape == (1, 40, 90)
    assert_close(again(**inputs).logits, model(**inputs).logits)
    other = AutoModelForAudioClassification.from_pretrained(tmp_path, num_labels=3, ignore_mismatched_sizes=True)
    assert other(**inputs).logits.shape == (1, 3)
    assert all(p.equal(q) for p, q in zip(other.backbone.parameters(), model.backbone.parameters(), strict=True))


def test_an_extractor_that_was_used_is_as_small_as_a_new_one():
    extractor = CnnFeatureExtractor()
    fresh, json_text = pickle.dumps(extractor), extractor.to_json_string()
    extractor(sound(1.0))
    assert (pickle.dumps(extractor), extractor.to_json_string()) == (fresh, json_text)
    assert len(fresh) < 1_000
    assert CnnFeatureExtractor(**json.loads(json_text)).to_dict() == extractor.to_dict()


@both
def test_opens_elsewhere_without_this_package(tmp_path, architecture, elsewhere_python):
    model, waveform = saved(tmp_path / "model", architecture), sound(2.5)
    extractor = CnnFeatureExtractor()
    extractor.save_pretrained(tmp_path / "model")
    np.save(tmp_path / "waveform.npy", waveform)
    program = (
        "import json; import numpy; from transformers import pipeline;"
        "classify = pipeline('audio-classification', model='model', trust_remote_code=True);"
        "clip = lambda: {'array': numpy.load('waveform.npy'), 'sampling_rate': 16000};"
        "print(json.dumps(classify([clip(), clip()], batch_size=2, top_k=None)))"
    )
    done = elsewhere_python.run(program, tmp_path)
    assert done.returncode == 0, done.stderr
    with torch.inference_mode():
        scores = model(**extractor(waveform, return_tensors="pt")).logits.softmax(-1)[0].tolist()
    for answer in json.loads(done.stdout):
        found = {entry["label"]: entry["score"] for entry in answer}
        assert found == pytest.approx(dict(zip(CLASSES, scores, strict=True)), abs=1e-4)
