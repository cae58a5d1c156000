"""Small files that unpack to hours, low sampling rates, many channels: refused, and nothing else is lost."""

from __future__ import annotations

import numpy as np
import pytest
import soundfile

from tests.helpers import tiny
from urbansound_hf.audio.io import AudioError, Limits, load_audio
from urbansound_hf.cli import infer
from urbansound_hf.data.loading import load_sounds
from urbansound_hf.errors import UserError


@pytest.fixture(scope="module")
def bombs(tmp_path_factory):
    """Two classes of two sounds each; one is an hour of silence in a few kB, one has a rate of 500 Hz."""
    folder = tmp_path_factory.mktemp("bombs")
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 16_000)
    for name in ("dog/bark.wav", "siren/siren.wav"):
        (folder / name).parent.mkdir()
        soundfile.write(folder / name, noise, 16_000)
    with soundfile.SoundFile(folder / "dog/hour.flac", "w", 8000, 1, "PCM_16") as file:
        for _ in range(60):
            file.write(np.zeros(480_000, np.int16))
    soundfile.write(folder / "siren/slow.wav", noise, 500)
    return folder


def test_the_limits_of_a_sound(bombs, tmp_path):
    with pytest.raises(AudioError, match=r"(?s)longer than 60 s.*--max_seconds"):
        load_audio(bombs / "dog/hour.flac", limits=Limits(max_seconds=60))
    assert len(load_audio(bombs / "dog/bark.wav", limits=Limits(max_seconds=1))) == 16_000
    with pytest.raises(AudioError, match=r"(?s)500 Hz, which is none of sound.*--min_rate 500"):
        load_audio(bombs / "siren/slow.wav")
    assert len(load_audio(bombs / "siren/slow.wav", 500, limits=Limits(min_rate=500))) == 16_000
    soundfile.write(tmp_path / "many.wav", np.zeros((10, 200)), 16_000)
    with pytest.raises(AudioError, match="200 channels, more than 32"):
        load_audio(tmp_path / "many.wav", limits=Limits(max_channels=32))


def test_one_small_file_never_loses_the_good_ones(bombs, tmp_path, capsys):
    tiny.save("yamnet", tmp_path / "model", clip_seconds=4.0)
    command = [str(bombs / "dog"), str(bombs / "siren"), "--model", str(tmp_path / "model"), "--format", "csv"]
    assert infer([*command, "--max_seconds", "60"]) == 1
    told = capsys.readouterr()
    assert "bark.wav,0.0,1.0" in told.out and "siren.wav,0.0,1.0" in told.out
    assert "longer than 60 s" in told.out + told.err and "--min_rate 500" in told.out + told.err
    with pytest.raises(UserError):
        infer([*command, "--max_seconds", "0"])


def test_training_names_all_of_them(bombs, tmp_path, monkeypatch):
    with pytest.raises(UserError) as caught:
        load_sounds(str(bombs), max_seconds=60)
    told = str(caught.value)
    assert "hour.flac" in told and "longer than 60 s" in told and "slow.wav" in told and "--min_rate 500" in told
