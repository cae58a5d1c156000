"""One clip at a time through the model's own extractor, cached until something that matters has changed."""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from datasets.fingerprint import Hasher
from transformers import (
    ASTFeatureExtractor,
    SeamlessM4TFeatureExtractor,
    Wav2Vec2FeatureExtractor,
    WhisperFeatureExtractor,
)

from urbansound_hf.audio.io import AudioError, load_audio, to_wav
from urbansound_hf.data.builder import PreparedSounds, sound_features
from urbansound_hf.features.dataset import collate_evaluation, collate_training, prepare_features
from urbansound_hf.features.extract import Cut, Waveforms, equal_shapes, extract, fill, filling, fills_window
from urbansound_hf.models.cnn.modeling_cnn import CnnFeatureExtractor
from urbansound_hf.models.yamnet.modeling_yamnet import YamnetFeatureExtractor

RATE = 16_000
WAV2VEC2 = Wav2Vec2FeatureExtractor(return_attention_mask=False)
EXTRACTORS = {  # and whether it brings clips of up to a second to one shape
    "wav2vec2": (WAV2VEC2, False),
    "wav2vec2-bert": (SeamlessM4TFeatureExtractor(), False),
    "whisper": (WhisperFeatureExtractor(chunk_length=1), True),
    "ast": (ASTFeatureExtractor(max_length=100), True),
    "yamnet": (YamnetFeatureExtractor(), False),
    "cnn": (CnnFeatureExtractor(num_frames=44), True),
}


def noise(seconds: float, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-0.5, 0.5, round(seconds * RATE)).astype(np.float32)


def table(*waveforms: np.ndarray) -> datasets.Dataset:
    """Prepared clips; the label of each is its number."""
    wavs = [to_wav(waveform) for waveform in waveforms]
    rows = [{"source": wav, "path": f"{number}.wav", "label": number} for number, wav in enumerate(wavs)]
    columns = sound_features([row["path"] for row in rows], {})
    return PreparedSounds(rows, columns, Hasher.hash(wavs), "clips").load(num_proc=1)


def prepare(dataset: datasets.Dataset, extractor=WAV2VEC2, seconds=1.0, training=False, num_proc=None, **options):
    window = round(seconds * RATE)
    filled = filling(extractor, window, "auto") if training else "none"
    return prepare_features(dataset, extractor, Cut(window, filled, **options), num_proc)


def cached_files(dataset: datasets.Dataset) -> set[Path]:
    return set(Path(dataset.cache_files[0]["filename"]).parent.glob("cache-*.arrow"))


@pytest.fixture(scope="module")
def clips() -> datasets.Dataset:
    return table(noise(1.0), noise(0.3, 1), noise(2.2, 2), noise(1.0, 3))


@pytest.mark.parametrize("family", EXTRACTORS)
def test_extract_is_the_extractor_on_one_clip_without_its_batch_axis(family):
    extractor, _ = EXTRACTORS[family]
    batch = extractor(noise(1.0), sampling_rate=RATE, return_tensors="pt")
    found = extract(extractor, noise(1.0))
    assert found.keys() == batch.keys()
    for name, values in found.items():
        assert values.shape == batch[name].shape[1:]
        np.testing.assert_array_equal(values, batch[name][0].numpy())


@pytest.mark.parametrize("family", EXTRACTORS)
def test_who_fills_the_window(family):
    extractor, fills = EXTRACTORS[family]
    assert fills_window(extractor, RATE) is fills


@pytest.mark.parametrize("family", EXTRACTORS)
def test_a_training_batch_has_one_shape_and_an_evaluation_clip_is_as_served(family, clips):
    extractor, _ = EXTRACTORS[family]
    batch = collate_training(list(prepare(clips, extractor, training=True)))
    whole = extract(extractor, noise(1.0))
    assert batch["labels"].tolist() == [0, 1, 2, 2, 2, 2, 3]
    assert {name: values.shape[1:] for name, values in batch.items() if name != "labels"} == {
        name: values.shape for name, values in whole.items()
    }
    short = prepare(clips, extractor)[1]
    served = extract(extractor, load_audio(clips[1]["audio"]["bytes"], RATE))
    for name, values in served.items():
        assert short[name].shape == values.shape
        np.testing.assert_array_equal(short[name], values)


def test_equal_shapes_sorts_every_clip_into_one_batch():
    clips = [{"x": np.full(length, length)} for length in (3, 2, 3, 1, 2)]
    batches = list(equal_shapes(clips))
    assert [positions for positions, _ in batches] == [[0, 2], [1, 4], [3]]
    assert [batch["x"].tolist() for _, batch in batches] == [[[3, 3, 3]] * 2, [[2, 2]] * 2, [[1]]]


def test_equal_shapes_looks_at_every_input():
    clips = [{"x": np.zeros(2), "mask": np.zeros(length)} for length in (2, 3)]
    assert [positions for positions, _ in equal_shapes(clips)] == [[0], [1]]


@pytest.mark.parametrize(
    ("how", "filled"),
    [("repeat", [1, 2, 3, 1, 2, 3, 1]), ("zeros", [1, 2, 3, 0, 0, 0, 0]), ("reflect", [1, 2, 3, 3, 2, 1, 1])],
)
def test_fill(how, filled):
    waveform = np.array([1.0, 2.0, 3.0], np.float32)
    assert fill(waveform, 7, how).tolist() == filled
    assert fill(waveform, 2, how) is waveform
    assert fill(waveform, 7, "none") is waveform


def test_what_was_asked_fills_the_window_else_the_extractor_else_repetition():
    whisper, _ = EXTRACTORS["whisper"]
    assert filling(whisper, RATE, "auto") == "none"
    assert filling(WAV2VEC2, RATE, "auto") == "repeat"
    assert filling(whisper, RATE, "reflect") == "reflect"


def test_shifts_are_rows_of_the_same_clip(clips):
    rows = prepare(clips, Waveforms(RATE), shifts=1)
    assert list(rows["clip"]) == [0, 0, 1, 1, *[2] * 8, 3, 3]
    np.testing.assert_array_equal(np.roll(rows[0]["waveform"], -RATE // 2), rows[1]["waveform"])


def test_a_long_clip_becomes_windows_that_overlap_by_half_and_end_with_it(clips):
    rows = prepare(clips, Wav2Vec2FeatureExtractor(do_normalize=False)).select([2, 3, 4, 5])
    assert rows["clip"][:].tolist() == [2, 2, 2, 2]
    heard = load_audio(clips[2]["audio"]["bytes"], RATE)
    for row, start in zip(rows, (0.0, 0.5, 1.0, 1.2), strict=True):
        np.testing.assert_array_equal(row["input_values"], heard[round(start * RATE) :][:RATE])


def test_the_rows_are_float32_and_numbered(clips):
    rows = prepare(clips)
    assert rows.column_names == ["labels", "clip", "input_values"]
    assert rows[0]["input_values"].dtype == np.float32
    assert rows["clip"][:].tolist() == rows["labels"][:].tolist() == [0, 1, 2, 2, 2, 2, 3]
    assert [len(row["input_values"]) for row in rows][:2] == [RATE, 4800]


def test_an_evaluation_batch_keeps_the_places_of_its_clips(clips):
    batch = collate_evaluation(list(prepare(clips)))
    assert batch["clip"].tolist() == batch["labels"].tolist() == [0, 1, 2, 2, 2, 2, 3]
    assert [positions.tolist() for positions in batch["positions"]] == [[0, 2, 3, 4, 5, 6], [1]]
    assert [group["input_values"].shape for group in batch["groups"]] == [(6, RATE), (1, 4800)]
    assert all(group["input_values"].dtype == torch.float32 for group in batch["groups"])


@pytest.mark.parametrize("family", EXTRACTORS)
def test_the_cache_knows_an_extractor_that_was_used_or_read_from_a_folder(family, tmp_path):
    extractor, _ = EXTRACTORS[family]
    extractor.save_pretrained(tmp_path)
    again = type(extractor).from_pretrained(tmp_path)
    before = Hasher.hash(again)
    extract(again, noise(0.5))
    assert Hasher.hash(again) == before
    assert Hasher.hash(type(extractor).from_pretrained(tmp_path)) == before


def test_a_second_call_extracts_nothing_and_a_change_extracts_anew():
    dataset = table(noise(1.0, 10), noise(0.5, 11))
    first, files = prepare(dataset), cached_files(dataset)
    assert prepare(dataset).cache_files == first.cache_files and cached_files(dataset) == files
    louder = Wav2Vec2FeatureExtractor(do_normalize=False, return_attention_mask=False)
    for change in ({"seconds": 0.5}, {"training": True}, {"extractor": louder}):
        prepare(dataset, **change)
        assert len(cached_files(dataset)) == len(files) + 1, f"{change} must extract anew"
        files = cached_files(dataset)


def test_edited_code_of_an_extractor_extracts_anew(tmp_path, monkeypatch):
    source = "from transformers import Wav2Vec2FeatureExtractor as Base\nclass Mine(Base):\n    gain = 1\n"
    file = tmp_path / "my_extractor.py"
    file.write_text(source, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    module = importlib.import_module("my_extractor")
    monkeypatch.setitem(sys.modules, "my_extractor", module)
    dataset = table(noise(1.0, 20))
    first = prepare(dataset, module.Mine(return_attention_mask=False))
    assert prepare(dataset, module.Mine(return_attention_mask=False)).cache_files == first.cache_files
    file.write_text(source.replace("gain = 1", "gain = 22"), encoding="utf-8")
    os.utime(file, (0, 0))  # bytecode of the same second would be taken for fresh
    module = importlib.reload(module)
    assert prepare(dataset, module.Mine(return_attention_mask=False)).cache_files != first.cache_files


def test_two_processes_extract_what_one_does():
    waveforms, extractor = [noise(0.05, seed) for seed in range(130)], YamnetFeatureExtractor()
    dataset = table(*waveforms)
    two = prepare(dataset, extractor, num_proc=2)
    one = prepare(table(*waveforms[::-1]), extractor, num_proc=1)  # backwards, or it would find what two made
    assert len(one.cache_files) == 1 and len(two.cache_files) == 2
    assert one["clip"][:].tolist() == two["clip"][:].tolist() == list(range(130))
    np.testing.assert_array_equal(one["input_features"][::-1], two["input_features"][:])


@pytest.mark.parametrize(
    ("extractor", "options"),
    [(WAV2VEC2, {"shortest": 400}), (SeamlessM4TFeatureExtractor(), {}), (ASTFeatureExtractor(), {})],
)
def test_a_clip_too_short_for_the_model_is_told_before_training(extractor, options):
    dataset = table(noise(1.0), noise(560 / RATE), noise(399 / RATE))  # two frames, and none
    assert len(prepare(dataset.select([0, 1]), extractor, **options)) == 2
    with pytest.raises(AudioError, match=r"too short for this model \(399 samples at 16000 Hz") as caught:
        prepare(dataset, extractor, **options)
    assert caught.value.where == "2.wav" and "leave it out" in caught.value.fix
    if not fills_window(extractor, RATE):  # then training repeats it
        assert len(prepare(dataset, extractor, training=True, **options)) == 3
