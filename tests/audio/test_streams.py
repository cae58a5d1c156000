"""MP3, Ogg and FLAC: all of a file is read whatever its header says of the length, however many files were joined."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest
import soundfile

from urbansound_hf.audio.io import AudioError, load_audio, read_audio

RATE = 16_000
LOSSY = 1200  # samples of the encoder's padding, which are left out only where the file describes them


def sound(seconds: float, rate: int = RATE, channels: int = 1, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    time = np.arange(round(seconds * rate)) / rate
    tone = 0.4 * np.sin(2 * np.pi * random.uniform(200, 900) * time)
    return (tone[:, None] + 0.05 * random.standard_normal((len(time), channels))).astype(np.float32)


def encode(samples: np.ndarray, rate: int = RATE, container: str = "MP3", **kind: object) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, format=container, **kind)
    return buffer.getvalue()


def mp3(samples: np.ndarray, rate: int = RATE, mode: str = "VARIABLE", described: bool = True) -> bytes:
    """An MP3, if not described without the frame that gives its length."""
    content = encode(samples, rate, bitrate_mode=mode, compression_level=0.3)
    if described:
        return content
    tag = next(content.find(name) for name in (b"Xing", b"Info") if name in content)
    return content[content.find(content[:2], tag + 100) :]


QUIET_LOUD = {
    "quiet, then loud": lambda rate: np.concatenate([np.zeros((4 * rate, 1), np.float32), sound(4, rate)]),
    "loud, then quiet": lambda rate: np.concatenate([sound(4, rate), np.zeros((4 * rate, 1), np.float32)]),
}


@pytest.mark.parametrize("mode", ["VARIABLE", "CONSTANT"])
@pytest.mark.parametrize("rate", [8000, 22_050, 48_000])
@pytest.mark.parametrize("order", QUIET_LOUD)
def test_an_mp3_without_a_description_is_read_to_its_end(order, rate, mode):
    samples = QUIET_LOUD[order](rate)
    described, notes = mp3(samples, rate, mode), []
    bare = mp3(samples, rate, mode, described=False)
    whole = read_audio(described)[0]
    assert len(whole) == len(samples)
    waveform, found = read_audio(bare, notes=notes)
    assert found == rate and not notes and 0 <= len(waveform) - len(samples) < 3 * 1152
    delay = np.argmax([abs(np.dot(waveform[d : d + rate * 7], whole[: rate * 7])) for d in range(2500)])
    np.testing.assert_allclose(waveform[delay : delay + len(whole)], whole, atol=2e-3)


@pytest.mark.parametrize("described", [(True, True), (True, False), (False, True), (False, False)])
@pytest.mark.parametrize("mode", ["VARIABLE", "CONSTANT"])
@pytest.mark.parametrize("channels", [1, 2])
def test_joined_mp3s_of_one_kind(channels, mode, described):
    parts = [
        mp3(sound(seconds, channels=channels, seed=seed), RATE, mode, known)
        for seed, (seconds, known) in enumerate(zip((3, 2), described, strict=True))
    ]
    waveform = load_audio(b"".join(parts))
    assert 0 <= len(waveform) - 5 * RATE < 6 * 1152


@pytest.mark.parametrize("described", [True, False])
@pytest.mark.parametrize("other", [(44_100, 1), (RATE, 2), (8000, 2)])
def test_joined_mp3s_of_other_rates_and_channels(other, described):
    rate, channels = other
    parts = [mp3(sound(2), RATE, described=described), mp3(sound(2, rate, channels), rate, described=described)]
    notes: list[str] = []
    waveform = load_audio(b"".join(parts), notes=notes)
    assert 0 <= len(waveform) - 4 * RATE < 6 * 1152 and not notes


def id3v2(size: int) -> bytes:
    return b"ID3\4\0\0" + bytes(size >> shift & 0x7F for shift in (21, 14, 7, 0)) + b"\xff\xfb" * (size // 2)


APE = b"APETAGEX" + struct.pack("<IIII", 2000, 32 + 20, 1, 0xA0000000) + bytes(8)
APE_TAG = APE + b"x" * 20 + APE[:20] + struct.pack("<I", 0x80000000) + bytes(8)
TAGS = {
    "ID3v2": lambda content: id3v2(5000) + content,
    "ID3v1": lambda content: content + b"TAG".ljust(128, b"\xff"),
    "APE": lambda content: content + APE_TAG,
    "zeros": lambda content: content + bytes(3000),
}


@pytest.mark.parametrize("tag", TAGS)
@pytest.mark.parametrize("described", [True, False])
def test_tags_are_no_sound(tag, described):
    content, notes = mp3(sound(3), described=described), []
    tagged = TAGS[tag](content)
    waveform, expected = load_audio(tagged, notes=notes), load_audio(content)
    assert 0 <= len(waveform) - len(expected) < 1152
    np.testing.assert_array_equal(waveform[: len(expected)], expected)
    assert bool(notes) == (tag == "zeros")
    twice = load_audio(tagged + tagged)
    assert 6 * RATE <= len(twice) < 6 * RATE + 6 * 1152


@pytest.mark.parametrize("factor", [0.2, 0.5, 0.99, 1.04])
def test_a_description_that_is_wrong_is_no_limit(factor):
    content = mp3(sound(6))
    place = content.find(b"Xing") + 8
    frames = int.from_bytes(content[place : place + 4], "big")
    changed = content[:place] + struct.pack(">I", round(frames * factor)) + content[place + 4 :]
    assert 6 * RATE <= len(load_audio(changed)) < 6 * RATE + 3 * 1152


@pytest.mark.parametrize("keep", [0.1, 0.5, 0.9])
def test_a_truncated_mp3_is_an_error_with_figures(keep):
    content = mp3(sound(4))
    with pytest.raises(AudioError, match=r"is truncated: [\d.]+ of 4.0 s can be decoded"):
        load_audio(content[: int(keep * len(content))])


def test_damage_within_an_mp3_is_noted():
    content, notes = mp3(sound(4), described=False), []
    middle = len(content) // 2
    load_audio(content[:middle] + b"\1" * 700 + content[middle:], notes=notes)
    assert len(notes) == 1 and "are no MP3 frames and are not read" in notes[0]


def test_what_is_no_mp3_is_an_error():
    for content in (b"\xff\xfb" + bytes(5000), b"\xff\xe0", b"ID3"):
        with pytest.raises(AudioError):
            load_audio(content)


@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
@pytest.mark.parametrize("parts", [2, 5])
def test_chained_ogg(subtype, parts):
    rates = [48_000, 16_000, 8_000, 24_000, 48_000][:parts]
    contents = [
        encode(sound(2, rate, 1 + number % 2, number), rate, "OGG", subtype=subtype)
        for number, rate in enumerate(rates)
    ]
    notes: list[str] = []
    waveform = load_audio(b"".join(contents), notes=notes)
    np.testing.assert_array_equal(waveform, np.concatenate([load_audio(content) for content in contents]))
    assert abs(len(waveform) - 2 * RATE * parts) < 10 * parts and len(notes) == 1


def test_a_link_that_cannot_be_read_is_named():
    content = encode(sound(2), container="OGG")
    second = content.replace(b"\1vorbis", b"\1unheard"[:7])
    with pytest.raises(AudioError, match=r"part 2 of 2 in it is not a sound that libsndfile can read"):
        load_audio(content + second)


@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
def test_a_truncated_ogg_is_an_error_with_figures(subtype):
    content = encode(sound(4, 48_000), 48_000, "OGG", subtype=subtype)
    for keep in (0.3, 0.6, 0.99):
        with pytest.raises(AudioError, match=r"is truncated: [\d,]+ bytes are there, its last page needs more"):
            load_audio(content[: int(keep * len(content))])


@pytest.mark.parametrize("other", [(RATE, 1), (44_100, 2)])
def test_joined_flac(other):
    contents = [encode(sound(2), container="FLAC"), encode(sound(1, *other), other[0], "FLAC")]
    waveform = load_audio(contents[0] + contents[1] + contents[0])
    expected = [load_audio(content) for content in (*contents, contents[0])]
    np.testing.assert_array_equal(waveform, np.concatenate(expected))


@pytest.mark.parametrize("channels", [1, 2])
def test_a_flac_without_its_length(channels):
    content = bytearray(encode(sound(3, channels=channels), container="FLAC"))
    whole = load_audio(bytes(content))
    content[21] &= 0xF0  # the 36 bits of the number of samples: unknown, as written to a pipe
    content[22:26] = bytes(4)
    np.testing.assert_array_equal(load_audio(bytes(content)), whole)
