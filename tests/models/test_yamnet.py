"""YAMNet: the published numbers, the original's front end, and a checkpoint that opens without this package."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional
from torch.testing import assert_close
from transformers import AutoFeatureExtractor, AutoModelForAudioClassification, pipeline

from tests.conftest import REAL_DATA, YAMNET
from urbansound_hf.audio.io import load_audio
from urbansound_hf.errors import exit_code
from urbansound_hf.models.catalogue import main
from urbansound_hf.models.yamnet import convert
from urbansound_hf.models.yamnet.modeling_yamnet import (
    SameConv2d,
    YamnetConfig,
    YamnetFeatureExtractor,
    YamnetForAudioClassification,
)

LABELS = ["bark", "drill", "horn"]
CLIPS = {
    "Jackhammer": "fold2/73623-7-1-1.wav",
    "Siren": "fold1/157867-8-0-1.wav",
    "Vehicle horn, car horn, honking": "fold1/19026-1-0-0.wav",
    "Dog": "fold1/118963-3-0-0.wav",
}


def tiny(**settings) -> YamnetForAudioClassification:
    torch.manual_seed(0)
    names = {"id2label": dict(enumerate(LABELS)), "label2id": {label: i for i, label in enumerate(LABELS)}}
    return YamnetForAudioClassification(YamnetConfig(channels=[4, 6, 8], strides=[2, 1, 2], **names, **settings)).eval()


def sound(seconds: float, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-0.5, 0.5, round(seconds * 16_000)).astype(np.float32)


def features(*waveforms: np.ndarray, **options) -> dict:
    return YamnetFeatureExtractor()(list(waveforms), sampling_rate=16_000, return_tensors="pt", **options)


@pytest.fixture(scope="module")
def published(tmp_path_factory) -> Path:
    pytest.importorskip("onnx")
    folder = tmp_path_factory.mktemp("yamnet")
    assert main(["yamnet", "convert", str(YAMNET / "model.onnx"), str(folder)]) == 0
    return folder


# The published weights


def float_graph(model):
    """A copy without the quantise/dequantise pairs: the float network, with float inputs and outputs."""
    onnx = pytest.importorskip("onnx")
    result = onnx.ModelProto()
    result.CopyFrom(model)
    graph, origin = result.graph, {}
    for node in graph.node:
        if node.op_type in convert.QUANTISATION:
            origin[node.output[0]] = origin.get(node.input[0], node.input[0])
    kept = [node for node in graph.node if node.op_type not in convert.QUANTISATION]
    for node in kept:
        node.input[:] = [origin.get(name, name) for name in node.input]
    kept += [onnx.helper.make_node("Identity", [origin[each.name]], [each.name])
             for each in graph.output if each.name in origin]  # fmt: skip
    del graph.node[:]
    graph.node.extend(kept)
    for value in (*graph.input, *graph.output):
        value.type.tensor_type.elem_type = onnx.TensorProto.FLOAT
    return result


@pytest.mark.real
def test_every_patch_has_the_logits_of_onnx_runtime(published):
    runtime = pytest.importorskip("onnxruntime")
    model = YamnetForAudioClassification.from_pretrained(published).eval()
    graph = float_graph(convert.read_graph(YAMNET / "model.onnx"))
    session = runtime.InferenceSession(graph.SerializeToString())
    clip = load_audio(REAL_DATA / "audio" / CLIPS["Siren"])
    spectrogram = features(clip)["input_features"]
    patches = spectrogram.unfold(1, 96, 48)[0].transpose(1, 2).unsqueeze(1)  # (patches, 1, 96, 64)
    wanted = np.concatenate([session.run(None, {"audio": patch[None].numpy()})[0] for patch in patches])
    with torch.inference_mode():
        logits = model.classifier(model.yamnet(spectrogram))[0].numpy()
        scores = model(spectrogram).logits.sigmoid()[0].numpy()
    assert wanted.shape == (8, 521)
    np.testing.assert_allclose(logits, wanted, atol=1e-4)
    np.testing.assert_allclose(scores, torch.from_numpy(wanted).sigmoid().mean(0), atol=1e-5)  # the original's score


@pytest.mark.real
def test_the_float_graph_is_the_published_one_but_for_rounding():
    runtime, onnx = pytest.importorskip("onnxruntime"), pytest.importorskip("onnx")
    graph = convert.read_graph(YAMNET / "model.onnx")
    spectrogram = features(load_audio(REAL_DATA / "audio" / CLIPS["Siren"]))["input_features"].numpy()
    patch = spectrogram[:, None, 96:192]
    constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.graph.initializer}
    scale, zero = constants["audio_scale"], constants["audio_zero_point"]
    quantised = np.clip(np.round(patch / scale) + zero, 0, 255).astype(np.uint8)
    exact = runtime.InferenceSession(float_graph(graph).SerializeToString()).run(None, {"audio": patch})
    rounded = runtime.InferenceSession(YAMNET / "model.onnx").run(None, {"audio": quantised})
    assert np.corrcoef(exact[0][0], rounded[0][0].astype(np.float32))[0, 1] > 0.98


@pytest.mark.real
@pytest.mark.parametrize(("label", "name"), CLIPS.items())
def test_names_general_sounds_before_fine_tuning(published, label, name):
    classify = pipeline("audio-classification", model=str(published), trust_remote_code=True)
    top = classify({"array": load_audio(REAL_DATA / "audio" / name), "sampling_rate": 16_000}, top_k=3)
    assert label in [entry["label"] for entry in top]
    assert top[0]["score"] > 0.3


@pytest.mark.real
def test_a_new_head_keeps_the_published_convolutions(published):
    before = YamnetForAudioClassification.from_pretrained(published)
    options = {"problem_type": "single_label_classification", "ignore_mismatched_sizes": True}
    after = YamnetForAudioClassification.from_pretrained(published, num_labels=10, **options)
    for name, weight in before.yamnet.state_dict().items():
        assert torch.equal(weight, after.yamnet.state_dict()[name]), name
    output = after(**features(sound(1.0)), labels=torch.tensor([3]))
    assert output.logits.shape == (1, 10)
    assert output.loss.isfinite()


@pytest.mark.real
def test_the_converted_folder_says_what_it_is(published):
    config = json.loads((published / "config.json").read_text(encoding="utf-8"))
    assert len(config["id2label"]) == 521
    assert config["id2label"]["0"] == "Speech"
    assert config["label2id"]["Jackhammer"] == 414
    assert (config["problem_type"], config["clip_seconds"]) == ("multi_label_classification", 4.0)
    assert "license: apache-2.0" in (published / "README.md").read_text(encoding="utf-8")


# The converter's errors


def conversion_error(capsys, model: Path, out_dir: Path) -> str:
    assert exit_code(lambda: main(["yamnet", "convert", str(model), str(out_dir)])) == 2
    assert not out_dir.exists()
    return capsys.readouterr().err


def test_another_graph_is_refused(tmp_path, capsys):
    onnx = pytest.importorskip("onnx")
    weight = onnx.numpy_helper.from_array(np.zeros((521, 64), np.float32), "weight")
    bias = onnx.numpy_helper.from_array(np.zeros(521, np.float32), "bias")
    gemm = onnx.helper.make_node("Gemm", ["audio", "weight", "bias"], ["scores"], transB=1)
    value = [onnx.helper.make_tensor_value_info(name, 1, [1, None]) for name in ("audio", "scores")]
    onnx.save(onnx.helper.make_model(onnx.helper.make_graph([gemm], "g", value[:1], value[1:], [weight, bias])),
              tmp_path / "model.onnx")  # fmt: skip
    names = "\n".join(["index,mid,display_name", *(f"{n},/m/{n},sound {n}" for n in range(521))])
    (tmp_path / "yamnet_class_map.csv").write_text(names, encoding="utf-8")
    message = conversion_error(capsys, tmp_path / "model.onnx", tmp_path / "out")
    assert "not YAMNet: weights 1 are [(521, 64), (521,)], not [torch.Size([32, 1, 3, 3])" in message


def test_missing_and_broken_files_are_named(tmp_path, capsys):
    pytest.importorskip("onnx")
    assert "class names are missing" in conversion_error(capsys, tmp_path / "model.onnx", tmp_path / "out")
    (tmp_path / "yamnet_class_map.csv").write_text("index,mid,display_name\n1,/m/a,Speech\n", encoding="utf-8")
    assert "without gaps" in conversion_error(capsys, tmp_path / "model.onnx", tmp_path / "out")
    (tmp_path / "yamnet_class_map.csv").write_text("index,mid,display_name\n0,/m/a,Speech\n", encoding="utf-8")
    assert "there is no such file" in conversion_error(capsys, tmp_path / "model.onnx", tmp_path / "out")
    (tmp_path / "model.onnx").write_bytes(b"\xffnot a graph")
    assert "no ONNX graph" in conversion_error(capsys, tmp_path / "model.onnx", tmp_path / "out")


@pytest.mark.real
def test_a_graph_without_its_weights_says_so(tmp_path, capsys):
    pytest.importorskip("onnx")
    for name in ("model.onnx", "yamnet_class_map.csv"):
        (tmp_path / name).write_bytes((YAMNET / name).read_bytes())
    assert "put model.data beside it" in conversion_error(capsys, tmp_path / "model.onnx", tmp_path / "out")


# The front end


def test_an_impossible_number_of_bands_is_refused_before_filters_are_made():
    with pytest.raises(ValueError, match="feature_size is the number of mel bands, 1 to 257, found 1000000000"):
        YamnetFeatureExtractor(feature_size=10**9)


def reference_log_mel(waveform: np.ndarray) -> np.ndarray:
    """TensorFlow's stft and linear_to_mel_weight_matrix, written out in float64."""
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 400)
    starts = range(0, len(waveform) - 399, 160)
    spectrum = np.abs([np.fft.rfft(waveform[start : start + 400] * window, 512) for start in starts])
    mel = 1127 * np.log1p(np.linspace(0, 8000, 257) / 700)
    edges = np.linspace(1127 * np.log1p(125 / 700), 1127 * np.log1p(7500 / 700), 66)
    low, centre, high = edges[:-2], edges[1:-1], edges[2:]
    rising, falling = (mel[:, None] - low) / (centre - low), (high - mel[:, None]) / (high - centre)
    return np.log(spectrum @ np.maximum(0, np.minimum(rising, falling)) + 0.001)


def test_log_mel_is_tensorflows():
    waveform = sound(1.3)
    padded = np.pad(waveform.astype(np.float64), (0, 15_600 + 7_680 - len(waveform)))
    found = features(waveform)["input_features"][0].numpy()
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, reference_log_mel(padded), atol=1e-4)


@pytest.mark.parametrize(
    ("samples", "frames"), [(1, 96), (800, 96), (15_600, 96), (15_601, 144), (23_280, 144), (64_000, 432)]
)
def test_the_end_is_padded_to_whole_patches(samples, frames):
    spectrogram = features(np.zeros(samples, np.float32))["input_features"]
    assert spectrogram.shape == (1, frames, 64)
    assert torch.allclose(spectrogram, torch.tensor(0.001).log())


def test_what_the_extractor_refuses():
    extractor = YamnetFeatureExtractor()
    with pytest.raises(ValueError, match="takes 16000 Hz, the waveform has 44100 Hz"):
        extractor(sound(1.0), sampling_rate=44_100)
    with pytest.raises(ValueError, match="mono waveforms"):
        extractor(np.zeros((1, 16_000, 2), np.float32))
    with pytest.raises(ValueError, match="padding=True"):
        features(sound(1.0), sound(2.0))
    assert features(sound(1.0), sound(1.01))["input_features"].shape == (2, 144, 64)
    assert extractor(sound(1.0).tolist(), return_tensors="np")["input_features"].shape == (1, 144, 64)


def test_at_full_scale_a_clip_sounds_the_same_however_quiet_it_was():
    clip = sound(1.5)
    scaled, original = YamnetFeatureExtractor(peak_normalize=True), YamnetFeatureExtractor()
    loud, quiet = (scaled(level * clip, return_tensors="np")["input_features"] for level in (1.0, 0.001))
    np.testing.assert_allclose(quiet, loud, atol=1e-4)
    full = original(clip / np.abs(clip).max(), return_tensors="np")["input_features"]
    np.testing.assert_allclose(loud, full, atol=1e-5)
    assert np.abs(original(0.001 * clip, return_tensors="np")["input_features"] - full).max() > 1
    silence = scaled(np.zeros(16_000, np.float32), return_tensors="np")["input_features"]
    assert (silence == original(np.zeros(16_000, np.float32), return_tensors="np")["input_features"]).all()


# The network


@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize("stride", [1, 2])
def test_padding_is_tensorflows_same(groups, stride):
    layer, hidden = SameConv2d(4, 4, stride, groups), torch.randn(2, 4, 12, 8)
    before = 1 if stride == 1 else 0  # what is needed in all, 3 - stride, split with the larger half at the end
    padded = functional.pad(hidden, (before, 1, before, 1))
    expected = functional.conv2d(padded, layer.weight, layer.bias, stride, groups=groups)
    assert torch.allclose(layer(hidden), expected, atol=1e-6)


@pytest.mark.parametrize("problem_type", ["single_label_classification", "multi_label_classification"])
@pytest.mark.parametrize("hop", [48, 96])
def test_a_score_does_not_depend_on_padding_or_neighbours(problem_type, hop):
    model = tiny(problem_type=problem_type, patch_hop_frames=hop)
    clips = [sound(seconds, seed) for seed, seconds in enumerate((0.05, 1.2, 4.0))]
    batch = features(*clips, padding=True)
    assert batch["attention_mask"].sum(1).tolist() == [96, 144, 432]
    with torch.inference_mode():
        together = model(**batch).logits
        alone = torch.cat([model(**features(clip)).logits for clip in clips])
    assert "attention_mask" not in features(clips[0])
    assert torch.allclose(together, alone, atol=1e-5)


def test_patches_may_lie_side_by_side_in_training_alone():
    model, batch = tiny(training_patch_hop_frames=96), features(sound(4.0))  # 432 frames
    assert model.eval().yamnet(batch["input_features"]).shape[1] == 8
    assert model.train().yamnet(batch["input_features"]).shape[1] == 4
    assert model(**batch, labels=torch.tensor([0])).loss.isfinite()
    assert tiny().train().yamnet(batch["input_features"]).shape[1] == 8


def test_more_patches_than_go_through_at_once():
    model, clips = tiny(), [sound(20.0, seed) for seed in range(3)]  # 41 patches each
    with torch.inference_mode():
        together = model(**features(*clips)).logits
        alone = torch.cat([model(**features(clip)).logits for clip in clips])
    assert torch.allclose(together, alone, atol=1e-5)


def test_exports_for_any_number_of_clips():
    model, batch = tiny(), features(*(sound(4.0, seed) for seed in range(12)))  # 96 patches
    shapes = {"input_features": {0: torch.export.Dim("clips", max=64)}}
    exported = torch.export.export(model, (batch["input_features"][:2],), dynamic_shapes=shapes).module()
    assert torch.allclose(exported(batch["input_features"]).logits, model(**batch).logits, atol=1e-5)


def test_several_labels_are_pooled_as_scores_and_one_as_logits():
    batch, one, several = features(sound(2.0)), tiny(), tiny(problem_type="multi_label_classification")
    with torch.inference_mode():
        patches = one.classifier(one.yamnet(batch["input_features"]))
        assert patches.shape == (1, 4, 3)
        assert torch.allclose(one(**batch).logits, patches.mean(1), atol=1e-6)
        assert torch.allclose(several(**batch).logits.sigmoid(), patches.sigmoid().mean(1), atol=1e-6)
        extreme = several._pool(torch.full((1, 2, 3), 200.0), torch.full((1, 2, 1), 0.5))
    assert torch.allclose(extreme, torch.tensor(200.0))  # where float32 rounds the score itself to 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("frozen", [False, True])
def test_learns_whole_and_as_a_probe(dtype, frozen):
    model = tiny().train()
    model.base_model.requires_grad_(not frozen)
    before = {name: weight.clone() for name, weight in model.base_model.state_dict().items()}
    clips = [sound(1.0, seed) * level for seed, level in enumerate((0.01, 0.01, 1.0, 1.0))]
    batch, labels = features(*clips), torch.tensor([0, 0, 1, 1])
    optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.2 if frozen else 0.02)
    losses = []
    for _ in range(25):
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            loss = model(**batch, labels=labels).loss
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
    assert all(torch.equal(before[name], w) for name, w in model.base_model.state_dict().items()) == frozen


def test_random_weights_keep_the_variance_through_27_convolutions():
    torch.manual_seed(0)
    model = YamnetForAudioClassification(YamnetConfig(num_labels=10)).eval()
    with torch.inference_mode():
        embeddings = model.yamnet(torch.randn(1, 96, 64))
    assert sum(p.numel() for p in model.yamnet.parameters()) == 3_195_456
    assert embeddings.shape == (1, 1, 1024)
    assert 0.05 < embeddings.std() < 20


def test_misuse_is_explained():
    with pytest.raises(ValueError, match="at most five of them 2; found 2 channels and the strides"):
        YamnetConfig(channels=[4, 4], strides=[2, 3])
    model = tiny(problem_type="multi_label_classification")
    batch = features(sound(1.0))
    with pytest.raises(ValueError, match='problem_type="single_label_classification"'):
        model(**batch, labels=torch.tensor([1]))
    assert model(**batch, labels=torch.tensor([[0.0, 1.0, 1.0]])).loss.isfinite()


# The checkpoint


def test_survives_saving(tmp_path):
    model, waveform = tiny(patch_hop_frames=96, training_patch_hop_frames=48), sound(2.0)
    model.save_pretrained(tmp_path)
    YamnetFeatureExtractor(peak_normalize=True).save_pretrained(tmp_path)
    extractor = AutoFeatureExtractor.from_pretrained(tmp_path)
    assert extractor.peak_normalize
    again = AutoModelForAudioClassification.from_pretrained(tmp_path).eval()
    assert type(again) is YamnetForAudioClassification
    assert (again.config.patch_hop_frames, again.config.training_patch_hop_frames) == (96, 48)
    with torch.inference_mode():
        expected = model(**features(waveform / np.abs(waveform).max())).logits
        assert_close(again(**extractor(waveform, return_tensors="pt")).logits, expected)


def test_opens_elsewhere_without_this_package(tmp_path, elsewhere_python):
    model, waveform = tiny(problem_type="multi_label_classification"), sound(2.5)
    model.save_pretrained(tmp_path / "model")
    YamnetFeatureExtractor().save_pretrained(tmp_path / "model")
    np.save(tmp_path / "waveform.npy", waveform)
    program = (
        "import json; import numpy; from transformers import pipeline;"
        "classify = pipeline('audio-classification', model='model', trust_remote_code=True);"
        "print(json.dumps(classify({'array': numpy.load('waveform.npy'), 'sampling_rate': 16000})))"
    )
    done = elsewhere_python.run(program, tmp_path)
    assert done.returncode == 0, done.stderr
    with torch.inference_mode():
        expected = model(**features(waveform)).logits.sigmoid()[0].tolist()
    found = {entry["label"]: entry["score"] for entry in json.loads(done.stdout)}
    assert found == pytest.approx(dict(zip(LABELS, expected, strict=True)), abs=1e-4)


@pytest.mark.parametrize("settings", [{}, {"pooling": ["rms", "max"], "normalize_embedding": True}])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_gives_nearly_the_same_scores(settings, dtype):
    """Also where the head sees an embedding that is pooled in float32, as the shipped config's does."""
    torch.manual_seed(0)
    model = tiny(**settings).eval()
    batch = torch.randn(2, 200, 64)
    with torch.inference_mode():
        expected = model(batch).logits.softmax(1)
        found = model.to(dtype)(batch.to(dtype)).logits
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.softmax(1), expected, atol=0.03, rtol=0)
