"""WAV, RF64, W64 and AIFF with wrong sizes in their headers: all samples are read, or an error gives figures."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile

from urbansound_hf.audio.io import AudioError, load_audio, read_audio

RATE = 16_000
SAMPLES = 4001
LIST = b"LIST" + struct.pack("<I", 12) + b"INFOISFT\0\0\0\0"
ODD_LIST = b"LIST" + struct.pack("<I", 5) + b"INFOx"
WIDTHS = ["PCM_U8", "PCM_16", "PCM_24", "FLOAT", "DOUBLE", "ULAW"]
DELTAS = [-46, -44, -36, -12, -8, 8, 12, 36, 44]


def noise(samples: int = SAMPLES, channels: int = 1, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-0.9, 0.9, (samples, channels))


def encode(
    samples: np.ndarray, container: str = "WAV", subtype: str = "PCM_16", rate: int = RATE, **kind: str
) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, format=container, subtype=subtype, **kind)
    return buffer.getvalue()


def with_size(content: bytes, size: int, name: bytes = b"data", form: str = "<I") -> bytes:
    """The file with another size of its samples, found behind their chunk's id."""
    position = content.index(name) + (16 if form == "<Q" else 4)
    return content[:position] + struct.pack(form, size) + content[position + struct.calcsize(form) :]


def data_size(content: bytes, name: bytes = b"data", form: str = "<I") -> int:
    return struct.unpack_from(form, content, content.index(name) + (16 if form == "<Q" else 4))[0]


def read(content: bytes, tmp_path: Path) -> tuple[np.ndarray, list[str]]:
    """The waveform, the same from a path, from bytes and from an open file, and the notes."""
    path, notes = tmp_path / "sound.wav", []
    path.write_bytes(content)
    waveform, _ = read_audio(path, notes=notes)
    with path.open("rb") as file:
        for source in (content, file):
            again: list[str] = []
            np.testing.assert_array_equal(read_audio(source, notes=again)[0], waveform)
            assert again == notes
    return waveform, notes


@pytest.mark.parametrize("tail", [b"", ODD_LIST, LIST + ODD_LIST], ids=len)
@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("subtype", WIDTHS)
def test_a_size_that_is_wrong_by_a_header(tmp_path, subtype, channels, tail):
    content = encode(noise(SAMPLES - 1, channels), subtype=subtype)
    size, expected = data_size(content), read_audio(content)[0]
    np.testing.assert_array_equal(read(content + tail, tmp_path)[0], expected)
    assert not read(content + tail, tmp_path)[1]
    for delta in DELTAS:
        waveform, notes = read(with_size(content, size + delta) + tail, tmp_path)
        np.testing.assert_array_equal(waveform, expected, err_msg=f"{delta}")
        assert notes == [
            f"its header promises {size + delta:,} bytes of samples, {size:,} are there; all of them are read"
        ]


@pytest.mark.parametrize("size", [0, 0x7FFFFFFF, 0x7FFFF000, 0x80000000 - 44, 0xFFFFFFFE, 0xFFFFFFFF])
@pytest.mark.parametrize("tail", [b"", LIST], ids=len)
@pytest.mark.parametrize("subtype", WIDTHS)
def test_a_size_that_was_never_filled_in(tmp_path, subtype, tail, size):
    content = encode(noise(SAMPLES - 1, 2), subtype=subtype)
    waveform, notes = read(with_size(content, size) + tail, tmp_path)
    np.testing.assert_array_equal(waveform, read_audio(content)[0])
    assert len(notes) == (size == 0)


@pytest.mark.parametrize("missing", [200, 1000, 6000])
@pytest.mark.parametrize(
    ("container", "subtype", "name", "form"),
    [("WAV", "PCM_16", b"data", "<I"), ("WAVEX", "PCM_24", b"data", "<I"), ("WAV", "FLOAT", b"data", "<I"),
     ("AIFF", "PCM_16", b"SSND", ">I"), ("W64", "PCM_16", b"data", "<Q")],
)  # fmt: skip
def test_more_than_a_header_missing_is_an_error_with_figures(container, subtype, name, form, missing):
    content = encode(noise(channels=2), container, subtype)
    size = data_size(content, name, form) - 24 * (container == "W64")
    for broken in (content[:-missing], with_size(content, size + missing + 24 * (container == "W64"), name, form)):
        there = size - missing if len(broken) < len(content) else size
        promised = size if len(broken) < len(content) else size + missing
        with pytest.raises(AudioError, match=f"is truncated: {there:,} of {promised:,} bytes are there"):
            load_audio(broken)


OTHERS = [
    ("WAVEX", "PCM_16", b"data", "<I"), ("WAVEX", "FLOAT", b"data", "<I"), ("AIFF", "PCM_16", b"SSND", ">I"),
    ("AIFF", "FLOAT", b"SSND", ">I"), ("W64", "PCM_16", b"data", "<Q"), ("W64", "FLOAT", b"data", "<Q"),
]  # fmt: skip


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize(("container", "subtype", "name", "form"), OTHERS)
def test_the_other_chunked_files(tmp_path, container, subtype, name, form, channels):
    content = encode(noise(SAMPLES - 1, channels), container, subtype)
    size, expected = data_size(content, name, form), read_audio(content)[0]
    for delta in DELTAS:
        waveform, notes = read(with_size(content, size + delta, name, form), tmp_path)
        np.testing.assert_array_equal(waveform, expected, err_msg=f"{delta}")
        assert len(notes) == 1 and "all of them are read" in notes[0]
    np.testing.assert_array_equal(read(with_size(content, 0, name, form), tmp_path)[0], expected)


@pytest.mark.parametrize("samples", [7, 8, SAMPLES])
@pytest.mark.parametrize("tail", [b"", LIST.replace(b"<I", b"")], ids=len)
def test_rf64_and_bw64(tmp_path, samples, tail):
    content = encode(noise(samples, 2), "RF64", "PCM_24")
    expected = read_audio(encode(noise(samples, 2), "WAV", "PCM_24"))[0]
    position = content.index(b"ds64") + 16
    size = struct.unpack_from("<Q", content, position)[0]
    for delta in (0, -44, 44, -size):
        if size + delta < 0:
            continue
        changed = content[:position] + struct.pack("<Q", size + delta) + content[position + 8 :] + tail
        for magic in (b"RF64", b"BW64"):
            waveform, notes = read(magic + changed[4:], tmp_path)
            np.testing.assert_array_equal(waveform, expected)
            assert bool(notes) == bool(delta)


def test_w64_keeps_what_follows_the_samples_out(tmp_path):
    content = encode(noise(SAMPLES - 1), "W64")
    suffix = content[content.index(b"fmt ") + 4 :][:12]
    chunk = b"bext" + suffix + struct.pack("<Q", 24 + 40) + b"x" * 40
    np.testing.assert_array_equal(read(content + chunk, tmp_path)[0], read_audio(content)[0])


def test_rifx(tmp_path):
    content = encode(noise(channels=2), "WAV", "PCM_16", endian="BIG")
    assert content[:4] == b"RIFX"
    expected, size = read_audio(encode(noise(channels=2)))[0], data_size(content, form=">I")
    for delta in (0, *DELTAS):
        np.testing.assert_array_equal(read(with_size(content, size + delta, form=">I"), tmp_path)[0], expected)


@pytest.mark.parametrize("place", [12, 36])
@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_24"])
def test_odd_chunks(tmp_path, subtype, place):
    content = encode(noise(), subtype=subtype)
    expected = read_audio(content)[0]
    waveform, notes = read(content[:place] + ODD_LIST + b"\0" + content[place:], tmp_path)
    np.testing.assert_array_equal(waveform, expected)
    assert not notes and len(waveform) == SAMPLES


@pytest.mark.parametrize("tail", [b"", b"\0", b"TAG".ljust(128, b"\0"), LIST + b"\0\0", LIST[:-6]], ids=len)
def test_what_follows_the_samples_is_not_read_as_samples(tmp_path, tail):
    for subtype in ("PCM_U8", "PCM_24"):  # an odd number of bytes
        content = encode(noise(), subtype=subtype)
        waveform, notes = read(content + tail, tmp_path)
        np.testing.assert_array_equal(waveform, read_audio(content)[0])
        assert not notes


def test_what_is_left_out_is_noted(tmp_path):
    waveform, notes = read(encode(noise()) + b"\1" * 5000, tmp_path)
    assert len(waveform) == SAMPLES and notes == ["5,000 bytes behind its 8,002 bytes of samples are not read"]


def test_an_empty_chunk_of_samples_is_empty():
    for tail in (b"", LIST, ODD_LIST):
        with pytest.raises(AudioError, match="holds no samples"):
            load_audio(encode(noise(0)) + tail)


@pytest.mark.parametrize("delta", [0, 36, -44])
def test_compressed_wav(tmp_path, delta):
    for subtype in ("IMA_ADPCM", "MS_ADPCM", "GSM610"):
        content = encode(noise(8000), subtype=subtype, rate=8000)
        size, expected = data_size(content), read_audio(content)[0]
        waveform, _ = read(with_size(content, size + delta), tmp_path)
        np.testing.assert_array_equal(waveform[: len(expected)], expected)
        assert len(waveform) - len(expected) < 1100


@pytest.mark.parametrize(
    ("first", "second"),
    [(("WAV", "PCM_16", 16_000, 1), ("WAV", "PCM_16", 16_000, 1)),
     (("WAV", "PCM_16", 16_000, 1), ("WAV", "FLOAT", 44_100, 2)),
     (("WAVEX", "PCM_24", 48_000, 2), ("WAV", "PCM_U8", 8_000, 1)),
     (("AIFF", "PCM_16", 22_050, 1), ("AIFF", "PCM_24", 16_000, 2)),
     (("WAV", "PCM_16", 16_000, 1), ("AIFF", "PCM_16", 16_000, 1))],
)  # fmt: skip
def test_joined_files_are_read_one_after_another(tmp_path, first, second):
    contents = [
        encode(noise(rate // 2, channels, seed), container, subtype, rate)
        for seed, (container, subtype, rate, channels) in enumerate((first, second))
    ]
    notes: list[str] = []
    waveform = load_audio(b"".join(contents), RATE, notes=notes)
    np.testing.assert_array_equal(waveform, np.concatenate([load_audio(content, RATE) for content in contents]))
    assert len(waveform) == RATE and notes == ["it holds 2 sounds joined end to end; they are read as one"]
    assert read_audio(b"".join(contents))[1] == first[2]


@pytest.mark.parametrize("rate", [8000, RATE, 44100])
@pytest.mark.parametrize("subtype", ["FLOAT", "DOUBLE"])
@pytest.mark.parametrize("scale", [2**15, 2**23, 2**31])
def test_floats_in_the_scale_of_integers_keep_their_values(tmp_path, subtype, scale, rate):
    samples = noise(SAMPLES, 2)
    unscaled = load_audio(encode(samples, subtype=subtype, rate=rate))
    notes: list[str] = []
    waveform = load_audio(encode(samples * scale, subtype=subtype, rate=rate), notes=notes)
    np.testing.assert_allclose(waveform / scale, unscaled, atol=1e-6)
    (note,) = notes
    assert "of its samples lie beyond full scale" in note and "used as they are" in note


def test_a_few_samples_beyond_full_scale_are_nothing_unusual():
    samples = noise()
    samples[::10] = 1.5
    notes: list[str] = []
    assert load_audio(encode(samples, subtype="FLOAT"), notes=notes).max() == 1.5 and not notes


@pytest.mark.parametrize("rate", [1, 7, 999, 4_000_001, 2**31 - 1])
def test_a_rate_that_is_none_of_sound_is_an_error(rate):
    content = encode(noise())
    with pytest.raises(AudioError, match=f"has a sampling rate of {rate:,} Hz, which is none of sound"):
        load_audio(content[:24] + struct.pack("<I", rate) + content[28:])


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # soundfile seeks before the beginning
def test_damaged_files_are_sounds_or_errors():
    """Whatever bytes are changed, deleted, inserted or added: no other exception, and never much more than is there."""
    random = np.random.default_rng(0)
    kinds = [("WAV", "PCM_16"), ("WAV", "IMA_ADPCM"), ("WAVEX", "FLOAT"), ("RF64", "PCM_16"), ("W64", "PCM_16")]
    kinds += [("AIFF", "PCM_16"), ("AU", "PCM_16"), ("MP3", "MPEG_LAYER_III"), ("OGG", "VORBIS"), ("FLAC", "PCM_16")]
    contents, read = [encode(noise(2000), *kind) for kind in kinds], 0
    for _ in range(1000):
        content = bytearray(contents[random.integers(len(contents))])
        for _ in range(random.integers(1, 6)):
            place, count = random.integers(min(len(content), 120)), random.integers(1, 60)
            change = random.integers(5)
            if change == 0:
                content[place] = random.choice([0, 1, 127, 128, 255])
            elif change == 1:
                del content[place : place + count]
            elif change == 2:
                content[place:place] = random.bytes(count)
            elif change == 3:
                content += contents[random.integers(len(contents))][:count]
            else:
                content[place : place + 8] = bytes([random.choice([0, 255])]) * 8
        try:
            read += bool(len(load_audio(bytes(content))))
        except AudioError:
            continue
    assert read > 100


def test_a_long_file_is_read_in_blocks(monkeypatch):
    from urbansound_hf.audio import io as audio_io

    content = encode(noise(50_001, 2), subtype="PCM_24", rate=44_100)
    whole = load_audio(content)
    monkeypatch.setattr(audio_io, "BLOCK_FRAMES", 4096)
    blocks = load_audio(content)
    assert len(blocks) == len(whole)
    np.testing.assert_allclose(blocks, whole, atol=1e-6)
