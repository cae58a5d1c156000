"""Reading sound: every rate, width, codec and channel count of the data set, and everything that is no sound.

The audio is made here, so what should come out is known: a tone keeps its pitch, loudness and length.
"""

from __future__ import annotations

import csv
import io
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tests.conftest import REAL_DATA
from urbansound_hf.audio.io import (
    SAMPLING_RATE,
    AudioError,
    cut_windows,
    load_audio,
    read_audio,
    stream_audio,
    to_float_wav,
    to_wav,
    window_bounds,
)
from urbansound_hf.audio.resampling import resample

RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000, 96000, 176400, 192000)


def tone(rate: int, channels: int = 1, hertz: float = 440.0, seconds: float = 0.5) -> np.ndarray:
    """`(samples, channels)`: a sine, louder in each further channel, 0.4 in the mean."""
    gains = 0.8 * np.arange(1, channels + 1) / (channels + 1)
    return np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)[:, None] * gains


def encode(samples: np.ndarray, rate: int, container: str = "WAV", subtype: str | None = None) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, format=container, subtype=subtype)
    return buffer.getvalue()


def assert_is_tone(waveform: np.ndarray, tolerance: float, hertz: float = 440.0, rate: int = SAMPLING_RATE) -> None:
    """The middle of `waveform` is a sine of that frequency and amplitude 0.4; the rest of it is below `tolerance`."""
    assert waveform.dtype == np.float32 and waveform.ndim == 1 and waveform.flags.c_contiguous
    middle = waveform[len(waveform) // 5 : -(len(waveform) // 5)]
    phase = 2 * np.pi * hertz * np.arange(len(middle)) / rate
    basis = np.stack([np.sin(phase), np.cos(phase)], axis=1)
    weights = np.linalg.lstsq(basis, middle, rcond=None)[0]
    assert np.hypot(*weights) == pytest.approx(0.4, abs=tolerance)
    assert np.sqrt(np.mean((middle - basis @ weights) ** 2)) < tolerance


@pytest.mark.parametrize("channels", [1, 2, 6])
@pytest.mark.parametrize("rate", RATES)
def test_every_rate_and_channel_count(rate: int, channels: int) -> None:
    waveform = load_audio(encode(tone(rate, channels), rate, "WAVEX" if channels > 2 else "WAV", "PCM_16"))
    assert abs(len(waveform) - 0.5 * SAMPLING_RATE) <= 1
    assert_is_tone(waveform, tolerance=1e-3)


WIDTHS = {"PCM_U8": 8e-3, "PCM_16": 1e-3, "PCM_24": 1e-3, "PCM_32": 1e-3, "FLOAT": 1e-3, "DOUBLE": 1e-3}
CODECS = {"IMA_ADPCM": 0.03, "MS_ADPCM": 0.03, "ULAW": 0.02, "ALAW": 0.02}
OTHERS = {
    ("WAV", "GSM610"): 0.1, ("AIFF", "PCM_24"): 1e-3, ("AIFF", "IMA_ADPCM"): 0.03, ("AU", "ULAW"): 0.02,
    ("AU", "G721_32"): 0.05, ("CAF", "ALAC_16"): 1e-3, ("W64", "PCM_24"): 1e-3, ("RF64", "PCM_16"): 1e-3,
    ("FLAC", "PCM_S8"): 8e-3, ("FLAC", "PCM_16"): 1e-3, ("FLAC", "PCM_24"): 1e-3, ("VOC", "PCM_16"): 1e-3,
    ("OGG", "VORBIS"): 0.03, ("OGG", "OPUS"): 0.03, ("MP3", "MPEG_LAYER_III"): 0.03,
}  # fmt: skip


@pytest.mark.parametrize("rate", [8000, 192000])
@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("subtype", [*WIDTHS, *CODECS])
def test_every_width_of_wav(subtype: str, channels: int, rate: int) -> None:
    waveform = load_audio(encode(tone(rate, channels), rate, "WAV", subtype))
    if subtype in WIDTHS:  # ADPCM comes in whole blocks, the last one filled up
        assert abs(len(waveform) - 0.5 * SAMPLING_RATE) <= 1
    assert_is_tone(waveform, {**WIDTHS, **CODECS}[subtype])


@pytest.mark.parametrize(("container", "subtype"), OTHERS)
def test_every_other_format(container: str, subtype: str) -> None:
    rate = 8000 if subtype in ("GSM610", "G721_32") else 48000
    waveform, native_rate = read_audio(encode(tone(rate), rate, container, subtype))
    assert native_rate == rate
    assert_is_tone(waveform, OTHERS[container, subtype], rate=rate)


@pytest.mark.parametrize("name", ["a.wav", "wrong-suffix.mp3", "no-suffix", "Straße 音.WAV"])
def test_path_bytes_and_file_are_the_same(tmp_path: Path, name: str) -> None:
    content = encode(tone(44100, 2), 44100)
    path = tmp_path / name
    path.write_bytes(content)
    with path.open("rb") as file:
        waveforms = [
            load_audio(path),
            load_audio(str(path)),
            load_audio(content),
            load_audio(file),
            load_audio(io.BytesIO(content)),
        ]
    for waveform in waveforms:
        np.testing.assert_array_equal(waveform, waveforms[0])


def test_mono_is_the_mean() -> None:
    stereo = np.random.default_rng(0).uniform(-1, 1, (1000, 2)).astype(np.float32)
    np.testing.assert_allclose(
        load_audio(encode(stereo, SAMPLING_RATE, subtype="FLOAT")), stereo.mean(axis=1), atol=1e-7
    )
    opposite = np.stack([stereo[:, 0], -stereo[:, 0]], axis=1)
    assert not load_audio(encode(opposite, SAMPLING_RATE, subtype="FLOAT")).any()


@pytest.mark.parametrize("hertz", [10_500, 12_000, 15_000, 20_000])
def test_resampling_leaves_no_alias(hertz: int) -> None:
    """The stock pipeline's short filter leaves 14 % of 9 kHz and less than 1 % from 10 kHz on."""
    assert np.abs(load_audio(encode(tone(44100, hertz=hertz), 44100, subtype="FLOAT")))[800:-800].max() < 0.01


@pytest.mark.parametrize("hertz", [50, 1000, 4000])
def test_resampling_keeps_the_band(hertz: int) -> None:
    for rate in (22050, 44100, 48000, 96000):
        assert_is_tone(load_audio(encode(tone(rate, hertz=hertz), rate, subtype="FLOAT")), 1e-3, hertz)


@pytest.mark.parametrize("samples", [1, 2, 3, 50, 872, 2402, 10_000])
@pytest.mark.parametrize("rate", RATES)
def test_length_after_resampling(rate: int, samples: int) -> None:
    waveform = resample(np.ones(samples, np.float32), rate, SAMPLING_RATE)
    assert len(waveform) >= 1 and abs(len(waveform) - round(samples * SAMPLING_RATE / rate)) <= 1


def test_the_shortest_clip_of_the_data_set() -> None:
    waveform = load_audio(encode(tone(44100, 2, seconds=0.05), 44100, subtype="PCM_24"))
    assert len(waveform) == 800
    assert_is_tone(waveform, tolerance=0.01)


def test_silence_is_a_sound() -> None:
    waveform = load_audio(encode(np.zeros((4410, 2)), 44100))
    assert len(waveform) == 1600 and not waveform.any()


@pytest.mark.parametrize("level", [3, 1000, 32767, 1e-3, 2e-5, 1e-30])
@pytest.mark.parametrize("rate", [SAMPLING_RATE, 44100])
def test_samples_of_any_level_keep_their_values(rate: int, level: float) -> None:
    waveform = load_audio(encode(level * tone(rate), rate, subtype="FLOAT"))
    assert_is_tone(waveform / np.float32(level), 1e-3)


@pytest.mark.parametrize("rate", [8000, SAMPLING_RATE, 48000])
def test_a_float_wav_is_read_bit_by_bit(rate: int) -> None:
    random = np.random.default_rng(0)
    waveform = (random.standard_normal(1001) * 10.0 ** random.uniform(-38, 38, 1001)).astype(np.float32)
    content = to_float_wav(waveform, rate)
    with soundfile.SoundFile(io.BytesIO(content)) as sound:
        assert (sound.samplerate, sound.channels, sound.subtype, sound.frames) == (rate, 1, "FLOAT", 1001)
    again, again_rate = read_audio(content)
    assert again_rate == rate and again.tobytes() == waveform.tobytes()


def nan_at(position: int, value: float) -> bytes:
    samples = tone(44100)
    samples[position] = value
    return encode(samples, 44100, subtype="FLOAT")


UNREADABLE = {
    "NaN": (nan_at(100, np.nan), "holds NaN or infinite samples"),
    "infinity": (nan_at(-1, -np.inf), "holds NaN or infinite samples"),
    "no samples": (encode(np.zeros((0, 1)), 44100), "holds no samples"),
    "empty": (b"", "not a sound that libsndfile can read"),
    "text": (b"fold,class\n1,siren\n" * 100, "not a sound that libsndfile can read"),
    "macOS litter": (b"\0\5\x16\7\0\2\0\0Mac OS X        " + bytes(60), "not a sound that libsndfile can read"),
    "half a header": (encode(tone(44100), 44100)[:20], "not a sound that libsndfile can read"),
}


@pytest.mark.parametrize(("content", "what"), UNREADABLE.values(), ids=UNREADABLE.keys())
def test_what_is_no_sound_is_named(tmp_path: Path, content: bytes, what: str) -> None:
    path = tmp_path / "clip.wav"
    path.write_bytes(content)
    with pytest.raises(AudioError, match=what) as caught:
        load_audio(path)
    assert caught.value.where == str(path)
    with pytest.raises(AudioError, match=what) as caught:
        load_audio(content, name="fold1/clip.wav")
    assert caught.value.where == "fold1/clip.wav"


@pytest.mark.parametrize("keep", [0.1, 0.5, 0.95])
@pytest.mark.parametrize(
    ("container", "subtype"),
    [("WAV", "PCM_16"), ("WAV", "PCM_24"), ("WAV", "IMA_ADPCM"), ("WAVEX", "FLOAT"), ("WAV", "GSM610"),
     ("AIFF", "PCM_16"), ("AU", "PCM_16"), ("W64", "PCM_16"), ("RF64", "PCM_16"), ("CAF", "PCM_16"),
     ("FLAC", "PCM_16")],
)  # fmt: skip
def test_a_truncated_file_is_told(container: str, subtype: str, keep: float) -> None:
    content = encode(tone(8000, seconds=2), 8000, container, subtype)
    assert len(load_audio(content)) > 0
    with pytest.raises(AudioError, match=r"is truncated|lost sync|malformed"):
        load_audio(content[: int(keep * len(content))], name="clip")


def test_a_truncated_mp3_is_told() -> None:
    with pytest.raises(AudioError, match=r"is truncated: 1.0 of 2.0 s can be decoded"):
        load_audio(encode(tone(44100, seconds=2), 44100, "MP3")[:5000])


@pytest.mark.parametrize("size", [0xFFFFFFFF, 0xFFFFFFFE, 0x7FFFFFFF, 0x7FFFF000, 0x80000000 - 44])
def test_a_wav_from_a_pipe_has_no_length(size: int) -> None:
    content = bytearray(encode(tone(44100), 44100))
    whole = load_audio(bytes(content))
    content[4:8], content[40:44] = struct.pack("<I", 0xFFFFFFFF), struct.pack("<I", size)  # of RIFF, of data
    np.testing.assert_array_equal(load_audio(bytes(content)), whole)


def test_what_surrounds_the_samples_does_no_harm() -> None:
    content = encode(tone(44100), 44100)
    note = b"LIST" + struct.pack("<I", 12) + b"INFOISFT\0\0\0\0"
    wrong_riff_size = content[:4] + bytes(4) + content[8:]
    for odd in (content + note, content[:12] + note + content[12:], content + b"\0", wrong_riff_size):
        np.testing.assert_array_equal(load_audio(odd), load_audio(content))


def test_a_folder_and_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(AudioError, match="is a folder, not a file") as caught:
        load_audio(tmp_path)
    assert caught.value.where == str(tmp_path)
    with pytest.raises(AudioError, match="does not exist"):
        load_audio(tmp_path / "clip.wav")


def test_an_error_survives_another_process() -> None:
    with pytest.raises(AudioError) as caught:
        load_audio(b"text", name="fold1/clip.wav")
    again = pickle.loads(pickle.dumps(caught.value))
    assert type(again) is AudioError and str(again) == str(caught.value)
    assert "where: fold1/clip.wav" in str(again) and "convert it to WAV or FLAC" in str(again)


@pytest.mark.parametrize("rate", [8000, SAMPLING_RATE, 44100])
def test_to_wav_round_trip(rate: int) -> None:
    waveform = tone(rate)[:, 0].astype(np.float32)
    content = to_wav(waveform, rate)
    again, again_rate = read_audio(content)
    assert again_rate == rate and soundfile.info(io.BytesIO(content)).subtype == "PCM_16"
    np.testing.assert_allclose(again, waveform, atol=1 / 2**15)
    np.testing.assert_array_equal(read_audio(to_wav(again, rate))[0], again)  # a second time nothing is lost


def test_to_wav_clips_and_never_wraps() -> None:
    waveform = np.array([-2, -1, -0.5, 0, 0.5, 1, 2], np.float32)
    np.testing.assert_allclose(read_audio(to_wav(waveform))[0], [-1, -1, -0.5, 0, 0.5, 1, 1], atol=1 / 2**15)


@pytest.mark.parametrize("hop", [1, 7, 32, 64])
@pytest.mark.parametrize("samples", [0, 1, 63, 64, 65, 95, 96, 97, 128, 1000])
def test_windows_cover_everything(samples: int, hop: int) -> None:
    pieces = window_bounds(samples, 64, hop)
    assert pieces[0][0] == 0 and pieces[-1][1] == samples
    assert {end - start for start, end in pieces} == {min(samples, 64)}
    assert set().union(*(range(start, end) for start, end in pieces)) == set(range(samples))
    starts = [start for start, _ in pieces]
    assert set(np.diff(starts[:-1])) <= {hop} and all(0 < step <= hop for step in np.diff(starts))


@pytest.mark.parametrize("block", [1, 10, 63, 64, 100, 5000])
def test_windows_of_blocks_are_those_of_the_whole(block: int) -> None:
    for samples in (0, 1, 63, 64, 65, 96, 97, 1000):
        waveform = np.arange(samples, dtype=np.float32)
        blocks = (waveform[start : start + block] for start in range(0, samples, block))
        cut = list(cut_windows(blocks, 64, 30))
        assert [(start, end) for start, end, _ in cut] == window_bounds(samples, 64, 30)
        assert all(np.array_equal(piece, waveform[start:end]) for start, end, piece in cut)


@pytest.mark.parametrize(
    ("container", "subtype", "rate", "channels"),
    [("WAV", "PCM_16", 44100, 2), ("WAV", "FLOAT", 16000, 1), ("FLAC", "PCM_24", 96000, 2), ("OGG", "VORBIS", 44100, 1),
     ("MP3", "MPEG_LAYER_III", 22050, 1)],
)  # fmt: skip
def test_blocks_and_pieces_of_files_give_the_same_samples(
    container: str, subtype: str, rate: int, channels: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = encode(tone(rate, channels, seconds=3.0), rate, container, subtype)
    whole = load_audio(content)
    monkeypatch.setattr("urbansound_hf.audio.io.BLOCK_FRAMES", 10_000)
    monkeypatch.setattr("urbansound_hf.audio.containers.PIECE_BYTES", 1000)
    blocks = list(stream_audio(content))
    assert len(blocks) > 3 and max(map(len, blocks)) <= 10_000
    np.testing.assert_allclose(np.concatenate(blocks), whole, atol=1e-6)
    twice = content + content  # joined files, read through sections of the file
    np.testing.assert_allclose(load_audio(twice)[: len(whole)], whole, atol=2e-2 if container == "MP3" else 1e-6)


@pytest.mark.real
def test_every_real_clip() -> None:
    with (REAL_DATA / "metadata" / "UrbanSound8K.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 680
    for row in rows:
        path = REAL_DATA / "audio" / f"fold{row['fold']}" / row["slice_file_name"]
        waveform, seconds = load_audio(path), float(row["end"]) - float(row["start"])
        assert abs(len(waveform) - seconds * SAMPLING_RATE) <= 2, row
        assert np.isfinite(waveform).all() and np.abs(read_audio(path)[0]).max() <= 1, row
        assert np.abs(waveform).max() < 1.5, row  # gun shots that were recorded clipped overshoot when resampled
