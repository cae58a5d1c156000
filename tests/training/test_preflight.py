"""What cannot succeed is refused before the work; what training takes, serving takes."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.conftest import TINY as TINY_RUN
from tests.models.test_loading import NEEDS, TINY
from urbansound_hf.audio.io import to_wav
from urbansound_hf.config.arguments import RunConfig
from urbansound_hf.errors import UserError
from urbansound_hf.inference.classifier import SoundClassifier
from urbansound_hf.training import cross_validation, experiment
from urbansound_hf.training.cross_validation import run_experiment
from urbansound_hf.training.experiment import check_model, check_serving, check_storage, run_bytes
from urbansound_hf.training.run import configured_extractor, configured_model

pytestmark = pytest.mark.usefixtures("plain_reports")

SECONDS = [0.01, 0.72, 0.745, 1.005, 3.5, 12]
ANY_LENGTH = {"cnn", "ecapa-tdnn", "yamnet", "wav2vec2-bert"}
AST = "audio-spectrogram-transformer"
LABELS = ["bark", "horn", "rain"]


@pytest.fixture
def of_family(tmp_path):
    """The config of a tiny model of a family, trained on clips of some length."""
    from urbansound_hf.config.parse import parse_run_config

    tail = TINY_RUN[TINY_RUN.index("freeze: none") :]
    (tmp_path / "tail.yaml").write_text(tail, encoding="utf-8")

    def configure(family: str, seconds: float, *more: object) -> RunConfig:
        if family in NEEDS:
            pytest.importorskip(NEEDS[family])
        flags = ["--model_name_or_path", family, "--clip_seconds", seconds, *more]
        if "--model_config" not in more:
            flags += ["--model_config", *TINY[family]]
        return parse_run_config([str(flag) for flag in flags], tmp_path / "tail.yaml")

    return configure


def parts_of(config: RunConfig):
    torch.manual_seed(0)
    extractor = configured_extractor(config)
    return configured_model(config, LABELS), extractor


def noise(seconds: float, rate: int) -> np.ndarray:
    return np.random.default_rng(1).normal(0, 0.1, max(1, round(seconds * rate))).astype(np.float32)


@pytest.mark.parametrize("family", TINY)
def test_what_training_takes_serving_takes(of_family, tmp_path, family):
    refused = []
    for seconds in SECONDS:
        config = of_family(family, seconds)
        try:
            model, extractor = parts_of(config)
            check_model(config, copy.deepcopy(model), extractor)
        except UserError as error:
            assert "--clip_seconds" in error.where
            refused.append(seconds)
            continue
        folder = tmp_path / str(seconds)
        model.save_pretrained(folder)
        extractor.save_pretrained(folder)
        classifier = SoundClassifier.from_pretrained(folder, device="cpu")
        for length in (seconds, 2.6 * seconds) if seconds < 5 else (seconds,):
            wav = to_wav(noise(length, classifier.sampling_rate), classifier.sampling_rate)
            result = classifier.classify(wav)
            assert len(result.windows) == (1 if length == seconds else 5), (seconds, length)
            assert all(np.isfinite(window.score) for window in result.windows)
    assert not [seconds for seconds in refused if 1 <= seconds <= 10], "any usual length"
    assert (12 in refused) == (family in ("audio-spectrogram-transformer", "clap", "clap-audio"))


@pytest.mark.parametrize("architecture", ["tutorial", "residual"])
@pytest.mark.parametrize("hop_length", [160, 368, 501])
def test_the_frames_of_the_cnn_cover_its_window(of_family, architecture, hop_length):
    for seconds in (1.0, 1.25, 1.5, 3.0, 3.5, 4.0, 5.0, 7.3):
        flags = [
            "--model_config",
            f"architecture={architecture}",
            "--feature_extractor_config",
            f"hop_length={hop_length}",
        ]
        extractor = configured_extractor(of_family("cnn", seconds, *flags))
        samples = round(seconds * 16_000)
        assert samples <= extractor.num_frames * hop_length < samples + hop_length


def test_a_window_too_short_for_the_cnn_names_the_way_out(of_family):
    config = of_family("cnn", 0.5, "--model_config", "architecture=tutorial")
    model, extractor = parts_of(config)
    with pytest.raises(
        UserError, match=r"cannot process a clip of 0\.5 s: needs at least 31 bands and frames"
    ) as caught:
        check_model(config, model, extractor)
    assert "take longer clips" in caught.value.what and "--clip_seconds" in caught.value.where


def test_an_old_checkpoint_whose_frames_fall_short_of_its_window_opens(of_family, tmp_path):
    model, extractor = parts_of(of_family("cnn", 1.0, "--model_config", "architecture=residual"))
    extractor.num_frames = 43
    model.save_pretrained(tmp_path)
    extractor.save_pretrained(tmp_path)
    check_serving(tmp_path, to_wav(noise(1.0, 16_000)))


# ---- values that do not fit together


@pytest.mark.parametrize(
    ("family", "more"),
    [
        (AST, ["--model_config", *TINY[AST], "num_mel_bins=64"]),
        (AST, ["--feature_extractor_config", "num_mel_bins=64"]),
        ("whisper", ["--feature_extractor_config", "feature_size=128"]),
        ("whisper", ["--model_config", *TINY["whisper"], "num_mel_bins=128"]),
        ("wav2vec2", ["--model_config", *TINY["wav2vec2"], "mask_time_prob=0.5", "mask_time_length=2000"]),
        ("wav2vec2-bert", ["--feature_extractor_config", "num_mel_bins=40"]),
        ("cnn", ["--model_config", "architecture=tutorial", "--feature_extractor_config", "n_mfcc=13"]),
    ],
    ids=lambda value: value if isinstance(value, str) else value[-1],
)  # fmt: skip
def test_a_model_and_an_extractor_that_disagree(of_family, family, more):
    config = of_family(family, 1.0, *more)
    with pytest.raises(UserError) as caught:
        check_model(config, *parts_of(config))
    assert "the model cannot process a clip of 1 s: " in caught.value.what
    assert "; features: input_" in caught.value.what and "must agree" in caught.value.fix


def test_weights_that_are_not_finite(of_family):
    config = of_family("yamnet", 1.0)
    model, extractor = parts_of(config)
    model.classifier.weight.data[0, 0] = float("nan")
    with pytest.raises(UserError, match="not finite before any training"):
        check_model(config, model, extractor)


def test_the_check_draws_no_random_numbers(of_family):
    config = of_family("wav2vec2", 1.0)
    parts = parts_of(config)
    before = torch.random.get_rng_state()
    check_model(config, *parts)
    assert torch.equal(torch.random.get_rng_state(), before)


# ---- before the work


@pytest.mark.parametrize("place", ["/proc/nowhere", "/dev/null/run", "/proc/self/run"])
def test_an_output_folder_that_cannot_be_written_is_refused_first(configure, monkeypatch, place):
    monkeypatch.setattr(experiment, "load_sounds", lambda *_: pytest.fail("the sounds were prepared"))
    with pytest.raises(UserError) as caught:
        run_experiment(configure("--output_dir", place))
    assert caught.value.where == f"--output_dir {place}"


def test_a_disk_without_space_for_the_weights_is_refused_first(configure, monkeypatch, tmp_path):
    monkeypatch.setattr("urbansound_hf.errors._free_bytes", lambda _: 1000)
    config = configure("--output_dir", tmp_path)
    with pytest.raises(UserError, match=r"the disk is full: \d+\.\d MiB are needed, 0\.0 MiB are free"):
        check_storage(config, run_bytes(config, configured_model(config, LABELS)))


# ---- after it


def test_a_run_that_serving_cannot_open_is_not_finished(configure, synthetic_root, tmp_path, monkeypatch):
    def spoil(folder: Path, *_: object) -> None:
        (Path(folder) / "config.json").write_text("{}", encoding="utf-8")
        experiment.check_serving(folder, *_)

    monkeypatch.setattr(cross_validation, "check_serving", spoil)
    data = ["--dataset", "urbansound8k", "--data_dir", synthetic_root, "--preprocessing_num_workers", 1]
    with pytest.raises(UserError, match="the trained model cannot be served"):
        run_experiment(configure(*data, "--output_dir", tmp_path / "out"))
    assert not (tmp_path / "out/fold10/run.json").exists()
    assert list((tmp_path / "out/fold10/checkpoints").glob("checkpoint-*")), "they are kept"
