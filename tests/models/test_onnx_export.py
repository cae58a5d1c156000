"""An export gives PyTorch's scores without torch, is chosen where it is up to date, and goes up with a push."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import soundfile
from safetensors.numpy import load_file, save_file

from tests.helpers import tiny
from urbansound_hf.cli import infer
from urbansound_hf.errors import UserError
from urbansound_hf.inference.backend import OnnxBackend
from urbansound_hf.inference.classifier import SoundClassifier
from urbansound_hf.inference.torch_backend import TorchBackend
from urbansound_hf.models import onnx_export

CLIPS = [np.random.default_rng(seed).normal(0, 0.2, samples).astype(np.float32)
         for seed, samples in enumerate((16_000, 24_000, 24_000, 31_999))]  # fmt: skip


@pytest.fixture(scope="module")
def exported(tmp_path_factory) -> dict[str, Path]:
    """Two families, one of any length and one of a fixed length; the first in 8 bits as well."""
    folders = {}
    for family in ("yamnet", "whisper"):
        folders[family] = tiny.save(family, tmp_path_factory.mktemp(family), clip_seconds=2.0)
        onnx_export.export_onnx(folders[family], int8=True)
    return folders


@pytest.mark.parametrize("family", ["yamnet", "whisper"])
def test_scores_are_pytorchs(exported, family):
    expected = SoundClassifier.from_pretrained(exported[family], device="cpu", backend="torch")
    found = SoundClassifier.from_pretrained(exported[family], device="cpu")
    assert isinstance(expected.backend, TorchBackend)
    assert isinstance(found.backend, OnnxBackend)
    np.testing.assert_allclose(found.probabilities(CLIPS), expected.probabilities(CLIPS), atol=1e-4)
    embedded = expected.embed(CLIPS)
    np.testing.assert_allclose(found.embed(CLIPS), embedded, atol=1e-4)
    assert np.linalg.norm(embedded[0] - embedded[1]) > 1e-2
    same = ("labels", "sampling_rate", "problem_type", "thresholds", "window_seconds", "longest_seconds", "shifts")
    assert all(getattr(found, name) == getattr(expected, name) for name in (*same, "shortest_samples"))


def test_logits_and_embedding_are_outputs_with_a_dynamic_batch(exported):
    session = onnxruntime.InferenceSession(exported["whisper"] / "onnx" / "model.onnx")
    graph = (exported["whisper"] / "onnx" / "model.onnx").read_bytes()
    assert not [word for word in (b"site-packages", b"urbansound_hf", bytes(Path.cwd())) if word in graph]
    assert [each.name for each in session.get_outputs()] == ["logits", "embedding"]
    found = session.run(None, {"input_features": np.zeros((5, 80, 200), np.float32)})
    assert [values.shape for values in found] == [(5, 10), (5, 32)]


def test_8_bits_are_smaller_and_nearly_the_same(exported):
    folder = exported["whisper"]
    whole, small = (folder / "onnx" / name for name in ("model.onnx", "model_quantized.onnx"))
    assert small.stat().st_size < whole.stat().st_size
    found = SoundClassifier.from_pretrained(folder, device="cpu", dtype="int8").probabilities(CLIPS)
    expected = SoundClassifier.from_pretrained(folder, device="cpu").probabilities(CLIPS)
    assert 0 < np.abs(found - expected).max() < 0.2


def test_a_network_of_convolutions_gets_no_8_bits(exported):
    assert not (exported["yamnet"] / "onnx" / "model_quantized.onnx").exists()
    with pytest.raises(UserError, match=r"no ONNX export in 8 bits \(convolutions get none\)"):
        SoundClassifier.from_pretrained(exported["yamnet"], device="cpu", dtype="int8")


def test_infer_needs_neither_torch_nor_transformers(exported, tmp_path):
    soundfile.write(tmp_path / "clip.wav", CLIPS[0], 16_000)
    program = (
        "import sys; sys.modules.update(torch=None, transformers=None, datasets=None, scipy=None)\n"
        "from urbansound_hf.cli import infer; sys.exit(infer(sys.argv[1:]))"
    )
    arguments = [str(tmp_path / "clip.wav"), "--model", str(exported["yamnet"]), "--format", "jsonl"]
    command = [sys.executable, "-c", program, *arguments, "--device", "cpu"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, encoding="utf-8")
    assert json.loads(done.stdout)["label"]


def test_weights_that_changed_after_the_export_are_noticed(exported, tmp_path, capsys):
    soundfile.write(tmp_path / "clip.wav", CLIPS[0], 16_000)
    weights = exported["yamnet"] / "model.safetensors"
    before = weights.read_bytes()
    tensors = load_file(weights)
    tensors["classifier.bias"][:] += 1e-3
    save_file(tensors, weights, {"format": "pt"})
    try:
        with pytest.raises(UserError, match="the weights changed after the ONNX export"):
            SoundClassifier.from_pretrained(exported["yamnet"], backend="onnx")
        assert infer([str(tmp_path / "clip.wav"), "--model", str(exported["yamnet"]), "--device", "cpu"]) == 0
        assert "the weights changed after the ONNX export, which is not used" in capsys.readouterr().err
    finally:
        weights.write_bytes(before)


def test_what_cannot_run_is_refused_with_the_way_out(exported, tmp_path, monkeypatch):
    plain = tiny.save("yamnet", tmp_path / "plain")
    with pytest.raises(UserError, match=f"urbansound-hf export {plain}"):
        SoundClassifier.from_pretrained(plain, backend="onnx")
    with pytest.raises(UserError, match="ONNX Runtime computes float32 and int8 on the CPU, not bfloat16"):
        SoundClassifier.from_pretrained(plain, backend="onnx", dtype="bfloat16")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(UserError, match=r"pip install 'urbansound-hf\[onnx\]'"):
        SoundClassifier.from_pretrained(exported["yamnet"], backend="onnx")


def test_scores_that_differ_leave_no_export_behind(tmp_path, monkeypatch):
    folder = tiny.save("yamnet", tmp_path / "run")
    monkeypatch.setattr(onnx_export, "TOLERANCE", -1.0)
    with pytest.raises(UserError, match="the scores of the export differ"):
        onnx_export.export_onnx(folder)
    assert not (folder / "onnx").exists()


def test_half_the_precision_gives_the_same_labels(exported):
    whole, half = (
        SoundClassifier.from_pretrained(exported["whisper"], device="cpu", backend="torch", dtype=dtype)
        for dtype in (None, "bfloat16")
    )
    expected, found = whole.probabilities(CLIPS), half.probabilities(CLIPS)
    assert 0 < np.abs(found - expected).max() < 0.1


def test_a_damaged_export_is_told_by_name(exported, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(exported["yamnet"], folder)
    (folder / "onnx" / "model.onnx").write_bytes(b"not a graph")
    with pytest.raises(UserError, match="the ONNX export cannot be opened"):
        SoundClassifier.from_pretrained(folder, backend="onnx")
    (folder / "onnx" / "export.json").write_text("{", encoding="utf-8")
    found = SoundClassifier.from_pretrained(folder, device="cpu")
    assert isinstance(found.backend, TorchBackend)
