"""Scores are the stock pipeline's, whatever the batch; long recordings, bad files and bad models are told by name."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import psutil
import pytest
import soundfile
import torch
from transformers import BertConfig, BertModel, Wav2Vec2Config, Wav2Vec2FeatureExtractor, Wav2Vec2Model, pipeline

from tests.conftest import WHISPER
from tests.helpers import tiny
from urbansound_hf import progress
from urbansound_hf.audio.io import AudioError
from urbansound_hf.data.urbansound8k import CLASSES
from urbansound_hf.errors import UserError
from urbansound_hf.inference import workers
from urbansound_hf.inference.classifier import BATCHES_AHEAD, SoundClassifier
from urbansound_hf.inference.inputs import THREADS
from urbansound_hf.inference.torch_backend import choose_device

RATE = 16_000
SECONDS = (0.05, 1.0, 0.5, 1.0, 1.2, 1.0, 0.025)


def sound(seconds: float, seed: int = 0) -> np.ndarray:
    """A chirp under noise, `(samples,)` float32, another for each seed."""
    generator = np.random.default_rng(seed)
    time = np.arange(round(seconds * RATE)) / RATE
    low, high = generator.uniform(100, 3000, size=2)
    chirp = 0.4 * np.sin(2 * np.pi * (low + (high - low) * time) * time)
    return (chirp + 0.05 * generator.standard_normal(len(time))).astype(np.float32)


CLIPS = [sound(seconds, seed) for seed, seconds in enumerate(SECONDS)]


@pytest.fixture(scope="session")
def folders(tmp_path_factory) -> dict[str, Path]:
    return {family: tiny.save(family, tmp_path_factory.mktemp(family)) for family in tiny.FAMILIES}


@pytest.fixture(scope="session")
def classifier(folders) -> SoundClassifier:
    return SoundClassifier.from_pretrained(folders["wav2vec2"], device="cpu")


def stock_scores(folder: Path, clips: list[np.ndarray]) -> np.ndarray:
    stock = pipeline("audio-classification", model=str(folder), device="cpu")
    rows = []
    for clip in clips:
        answers = stock({"array": clip, "sampling_rate": RATE}, top_k=None)
        rows.append({answer["label"]: answer["score"] for answer in answers})
    return np.array([[row[label] for label in stock.model.config.id2label.values()] for row in rows])


def write(path: Path, waveform: np.ndarray, rate: int = RATE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, waveform, rate, subtype="FLOAT")
    return path


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_scores_are_those_of_the_stock_pipeline_in_any_batch(folders, family):
    classifier = SoundClassifier.from_pretrained(folders[family], device="cpu")
    expected = stock_scores(folders[family], CLIPS)
    assert expected.std(axis=0).max() > 0.01, "the clips must be told apart, or nothing is compared"
    for batch_size in (1, 3, 8):
        scores = classifier.probabilities(CLIPS, batch_size)
        assert scores.dtype == np.float32 and scores.shape == (len(CLIPS), len(CLASSES))
        np.testing.assert_allclose(scores, expected, atol=1e-5)


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("rate", [8000, 11025, 22050, 44100, 48000, 96000, 192000])
@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_a_file_of_any_rate_scores_as_in_the_stock_pipeline(folders, tmp_path, family, rate, channels):
    """The pipeline gets the file's samples at their own rate, resamples them itself and clips nothing."""
    classifier = SoundClassifier.from_pretrained(folders[family], device="cpu")
    stock = pipeline("audio-classification", model=str(folders[family]), device="cpu")
    generator = np.random.default_rng(rate)
    for seconds, level in ((1.0, 0.3), (0.4, 3.0), (0.4, 2e-5)):
        samples = (level * generator.uniform(-1, 1, (round(seconds * rate), channels))).astype(np.float32)
        soundfile.write(tmp_path / "clip.wav", samples, rate, subtype="FLOAT")
        ours = dict(classifier.classify(tmp_path / "clip.wav", top_k=len(CLASSES)).windows[0].top)
        theirs = stock({"array": samples.mean(axis=1), "sampling_rate": rate}, top_k=None)
        assert ours == pytest.approx({answer["label"]: answer["score"] for answer in theirs}, abs=1e-4)


@pytest.mark.parametrize("family", ["wav2vec2", "whisper", "ast"])
def test_a_longer_sound_is_scored_by_windows_unlike_in_the_stock_pipeline(folders, tmp_path, family):
    classifier, seconds = SoundClassifier.from_pretrained(folders[family], device="cpu"), 2.5
    path = write(tmp_path / "long.wav", np.concatenate([sound(1.25, 0), sound(1.25, 1)]))
    window = min(1.0, classifier.longest_seconds or seconds)
    result = classifier.classify(path, top_k=len(CLASSES), window_seconds=window)
    stock = pipeline("audio-classification", model=str(folders[family]), device="cpu")
    samples, rate = soundfile.read(path, dtype="float32")
    theirs = {
        answer["label"]: answer["score"] for answer in stock({"array": samples, "sampling_rate": rate}, top_k=None)
    }
    difference = max(abs(dict(result.summary.top)[label] - score) for label, score in theirs.items())
    assert difference > 1e-3, "the documents say that they differ"
    if not classifier.longest_seconds:
        whole = dict(classifier.classify(path, top_k=len(CLASSES), window_seconds=seconds).windows[0].top)
        assert whole == pytest.approx(theirs, abs=1e-4)


def test_padding_would_change_the_scores_of_a_group_norm_model(classifier):
    padded = np.pad(CLIPS[2], (0, RATE // 2))
    alone, beside = classifier.probabilities([CLIPS[2], padded])
    assert np.abs(alone - beside).max() > 1e-3, "the reason why nothing is padded to its neighbours"


@pytest.mark.parametrize("problem_type", ["multi_label_classification", "regression"])
def test_the_config_decides_what_becomes_of_the_logits(tmp_path, problem_type):
    folder = tiny.save("wav2vec2", tmp_path, problem_type=problem_type)
    scores = SoundClassifier.from_pretrained(folder, device="cpu").probabilities(CLIPS[:2])
    np.testing.assert_allclose(scores, stock_scores(folder, CLIPS[:2]), atol=1e-5)
    assert np.abs(scores.sum(axis=1) - 1).max() > 0.01, "softmax would sum to 1"


@pytest.mark.parametrize("family", ["wav2vec2", "ast"])
def test_a_clip_below_the_receptive_field_is_refused(folders, family):
    classifier = SoundClassifier.from_pretrained(folders[family], device="cpu")
    assert np.isfinite(classifier.probabilities([sound(400 / RATE)])).all()
    with pytest.raises(AudioError, match=r"too short for this model \(399 samples at 16000 Hz") as caught:
        classifier.probabilities([CLIPS[1], sound(399 / RATE)])
    assert caught.value.where == "clip 1"


@pytest.mark.parametrize(
    ("family", "extra", "seconds"),
    [("wav2vec2", {}, 10), ("wav2vec2", {"clip_seconds": 4.0}, 4), ("whisper", {}, 2), ("ast", {}, 1.28),
     ("ast", {"clip_seconds": 1.0}, 1)],
)  # fmt: skip
def test_the_checkpoint_decides_the_window(tmp_path, family, extra, seconds):
    assert SoundClassifier.from_pretrained(tiny.save(family, tmp_path, **extra)).window_seconds == seconds


def test_a_long_recording_becomes_a_timeline_and_its_mean(classifier, tmp_path):
    waveform = sound(2.75)
    path = write(tmp_path / "street.wav", waveform)
    result = classifier.classify(path, top_k=10, window_seconds=1.0, hop_seconds=0.5, batch_size=2)
    times = [(window.start, window.end) for window in result.windows]
    assert times == [(0, 1), (0.5, 1.5), (1, 2), (1.5, 2.5), (1.75, 2.75)]
    expected = classifier.probabilities([waveform[round(start * RATE) : round(end * RATE)] for start, end in times])
    for window, scores in zip(result.windows, expected, strict=True):
        assert window.label == CLASSES[scores.argmax()]
        np.testing.assert_allclose([dict(window.top)[label] for label in CLASSES], scores, atol=1e-5)
    assert (result.summary.start, result.summary.end, result.path) == (0, 2.75, str(path))
    means = [dict(result.summary.top)[label] for label in CLASSES]
    np.testing.assert_allclose(means, expected.mean(axis=0), atol=1e-5)


def test_a_clip_as_long_as_the_window_is_one_prediction(classifier, tmp_path):
    result = classifier.classify(write(tmp_path / "clip.wav", sound(1.0)), top_k=3, window_seconds=1.0)
    assert len(result.windows) == 1 and result.summary is None and len(result.windows[0].top) == 3
    assert classifier.classify(tmp_path / "clip.wav", window_seconds=1 - 1 / RATE).summary


@pytest.mark.parametrize(
    ("window", "hop"), [(0, None), (1, 0), (1, 1.5), (-1, None), (float("nan"), 1), (float("inf"), 1)]
)
def test_windows_that_leave_gaps_are_refused_before_any_work(classifier, window, hop):
    with pytest.raises(UserError, match="do not cover a recording"):
        classifier.classify_many([], window_seconds=window, hop_seconds=hop)
    assert list(classifier.classify_many([], window_seconds=1, hop_seconds=1)) == []


def test_a_window_longer_than_the_model_hears_is_refused(folders):
    whisper = SoundClassifier.from_pretrained(folders["whisper"], device="cpu")
    with pytest.raises(UserError, match=r"window of 2.5 s is longer than the 2 s that this model takes"):
        whisper.classify_many([], window_seconds=2.5)
    assert list(whisper.classify_many([], window_seconds=2.0)) == []


def test_results_keep_the_order_and_bad_inputs_keep_their_place(classifier, tmp_path):
    clips = [write(tmp_path / f"{number}.wav", clip) for number, clip in enumerate(CLIPS)]
    (tmp_path / "notes.wav").write_text("no sound", encoding="utf-8")
    short = write(tmp_path / "short.wav", sound(0.02))
    sources = [*clips[:2], tmp_path / "notes.wav", short, tmp_path / "missing.wav", *clips[2:]]
    results = list(classifier.classify_many(iter(sources), batch_size=2))
    assert [result.path for result in results] == [str(source) for source in sources]
    errors = [result.error for result in results if result.error]
    assert [bool(result.error) for result in results] == [False, False, True, True, True] + [False] * 5
    assert "not a sound" in errors[0] and "320 samples at 16000 Hz; it needs 400" in errors[1]
    assert "does not exist" in errors[2]
    expected = classifier.probabilities(CLIPS).max(axis=1)
    np.testing.assert_allclose([r.windows[0].score for r in results if not r.error], expected, atol=1e-5)


@pytest.mark.parametrize("killed", [False, True])
def test_beside_an_accelerator_processes_read_the_same_and_may_die(classifier, tmp_path, monkeypatch, capsys, killed):
    clips = [write(tmp_path / f"{number}.wav", sound(0.1 + 0.01 * (number % 5), number)) for number in range(60)]
    opened = io.BytesIO(clips[5].read_bytes())
    sources = [*clips[:20], tmp_path / "missing.wav", opened, write(tmp_path / "long.wav", sound(70)), *clips[20:] * 6]
    expected = list(classifier.classify_many(sources, batch_size=2))
    opened.seek(0)
    monkeypatch.setattr(workers, "FIRST", 2)
    monkeypatch.setattr(progress, "worker_count", lambda: 3)
    monkeypatch.setattr(classifier.backend, "on_accelerator", True)
    results = classifier.classify_many(sources, batch_size=2)
    found = [next(results)]
    if killed:
        workers_of = [each for each in psutil.Process().children() if each.name().startswith("pt_data_worker")]
        workers_of[-1].kill()
    found += results
    assert ("process that reads sounds has died" in capsys.readouterr().err) == killed
    assert [(each.path, each.error) for each in found] == [(each.path, each.error) for each in expected]
    for one, other in zip(found, expected, strict=True):
        if not one.error:
            np.testing.assert_allclose(one.scores, other.scores, atol=1e-5)


def test_a_folder_of_any_size_is_read_only_a_little_ahead(classifier, tmp_path):
    path, read = write(tmp_path / "clip.wav", sound(0.1)), []

    def endless():
        while True:
            read.append(path)
            yield path

    results = classifier.classify_many(endless(), batch_size=2)
    for count in range(1, 101):
        next(results)
        assert len(read) - count <= 2 * BATCHES_AHEAD * 2 + THREADS + 2
    results.close()


def test_sounds_come_as_bytes_and_open_files_too(classifier, tmp_path):
    path = write(tmp_path / "clip.wav", sound(0.5), rate=RATE)
    expected = classifier.classify(path).windows
    assert classifier.classify(path.read_bytes()).windows == expected
    assert classifier.classify(io.BytesIO(path.read_bytes())).windows == expected
    with pytest.raises(AudioError, match="not a sound") as caught:
        classifier.classify(b"no sound")
    assert caught.value.where == "<bytes>"


def refusal(name: str | Path, **options) -> str:
    with pytest.raises(UserError) as caught:
        SoundClassifier.from_pretrained(name, **options)
    return str(caught.value)


def test_a_wrong_folder_is_told_with_the_nearest_right_one(folders, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tiny.save("yamnet", Path("outputs/yamnet/fold_10"))
    assert "give one of outputs/yamnet/fold_10" in refusal("outputs/yamnet")
    assert "did you mean outputs/yamnet?" in refusal("outputs/yamnte")
    assert "this is a file" in refusal("outputs/yamnet/fold_10/config.json")
    assert "no such folder" in refusal("/no/such/folder")
    assert SoundClassifier.from_pretrained("outputs/yamnet/fold_10").labels == list(CLASSES)


def test_a_hub_id_out_of_reach_is_told_without_a_traceback():
    text = refusal("nobody/no-such-model")
    assert "the Hub cannot be reached" in text and "nobody/no-such-model" in text and "folder of a run" in text


def test_models_that_are_no_trained_classifiers_are_refused(tmp_path):
    BertModel(BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, vocab_size=9)).save_pretrained(
        tmp_path / "bert"
    )
    assert "the model is no audio classifier" in refusal(tmp_path / "bert")
    Wav2Vec2Model(Wav2Vec2Config(**tiny.WAV2VEC2)).save_pretrained(tmp_path / "pretrained")
    Wav2Vec2FeatureExtractor().save_pretrained(tmp_path / "pretrained")
    text = refusal(tmp_path / "pretrained")
    assert "holds no classifier.bias, classifier.weight, projector.bias, projector.weight" in text
    assert "fine-tune it first" in text


def test_a_damaged_checkpoint_is_told_by_name(tmp_path):
    folder = tiny.save("wav2vec2", tmp_path / "run")
    weights = folder / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-100])
    assert str(folder) in refusal(folder)
    weights.write_bytes(whole)
    (folder / "preprocessor_config.json").rename(folder / "aside.json")
    assert "preprocessor_config.json" in refusal(folder)
    (folder / "aside.json").rename(folder / "preprocessor_config.json")
    assert SoundClassifier.from_pretrained(folder, device="cpu").sampling_rate == RATE


def test_foreign_code_runs_only_when_it_is_trusted(tmp_path, monkeypatch):
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("the checkpoint's code is asked about"))
    config = {"model_type": "foreign", "auto_map": {"AutoConfig": "foreign.Config"}}
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    assert "--trust_remote_code" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("accelerator", "count", "named", "chosen"),
    [
        (None, 0, None, "cpu"),
        ("cuda", 2, None, "cuda"),
        ("mps", 1, None, "mps"),  # Apple
        ("xpu", 1, None, "xpu"),  # Intel
        ("mps", 1, "cpu", "cpu"),
        ("cuda", 2, "cuda:1", "cuda:1"),
        ("xpu", 1, "xpu", "xpu"),
        ("cuda", 2, "cuda:2", r"cuda:2 is not there: this machine has 2 of type cuda(.|\n)*cpu, cuda or cuda:1"),
        ("mps", 1, "cuda", "cuda is not there: this machine has 1 of type mps"),
        (None, 0, "mps", r"mps is not there: this machine has no accelerator(.|\n)*fix:   cpu$"),
        ("xpu", 1, "gpu", "there is no device called 'gpu'"),
    ],
)
def test_the_device_is_the_one_named_or_the_accelerator(accelerator, count, named, chosen, monkeypatch):
    """The decision alone: no machine has all the devices that there are."""
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: count)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda *_: torch.device(accelerator))
    if " " not in chosen:
        assert choose_device(named) == torch.device(chosen)
        return
    with pytest.raises(UserError, match=chosen) as caught:
        choose_device(named)
    assert caught.value.where == "--device"


def test_a_classifier_is_on_the_accelerator_of_this_machine(folders):
    classifier = SoundClassifier.from_pretrained(folders["yamnet"])
    available = torch.accelerator.is_available()
    assert classifier.backend.device.type == (torch.accelerator.current_accelerator().type if available else "cpu")
    assert next(classifier.backend.model.parameters()).device.type == classifier.backend.device.type


@pytest.mark.parametrize(("device", "what"), [("gpu", "no device called 'gpu'"), ("cuda:99", "cuda:99 is not there")])
def test_a_device_that_is_not_there_is_refused(folders, device, what):
    assert what in refusal(folders["wav2vec2"], device=device)


@pytest.mark.real
def test_a_pretrained_encoder_is_not_taken_for_a_classifier():
    assert "is not a trained classifier" in refusal(WHISPER)
