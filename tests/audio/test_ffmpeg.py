"""Sound that libsndfile does not read: samples equal to those that PyAV decodes, aligned with the source."""

from __future__ import annotations

import io
from fractions import Fraction

import av
import numpy as np
import pytest

from urbansound_hf.audio.files import find_audio_files
from urbansound_hf.audio.io import AudioError, load_audio, read_audio
from urbansound_hf.audio.resampling import resample

RATE, FRAME = 48_000, 1024


def source(seconds: float = 2.0) -> np.ndarray:
    """`(2, samples)`: noise without the highest frequencies, half as loud in the second channel."""
    noise = np.random.default_rng(0).standard_normal(round(seconds * RATE))
    smooth = np.convolve(noise, np.hanning(40) / 200, "same").astype(np.float32)
    return np.stack([smooth, smooth / 2])


def encode(container: str, codec: str, samples: np.ndarray, picture: bool = False) -> bytes:
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=container) as file:
        if picture:
            video = file.add_stream("mpeg4", rate=10)
            video.width = video.height = 16
            video.pix_fmt = "yuv420p"
        stream = file.add_stream(codec, rate=RATE)
        stream.layout = "stereo"
        resampler = av.AudioResampler(format=stream.format, layout="stereo", rate=RATE)
        if picture:
            for packet in [*video.encode(av.VideoFrame(16, 16, "yuv420p")), *video.encode(None)]:
                file.mux(packet)
        for start in range(0, samples.shape[1], FRAME):
            block = np.ascontiguousarray(samples[:, start : start + FRAME])
            frame = av.AudioFrame.from_ndarray(block, format="fltp", layout="stereo")
            frame.sample_rate, frame.pts, frame.time_base = RATE, start, Fraction(1, RATE)
            for converted in resampler.resample(frame):
                file.mux(stream.encode(converted))
        file.mux(stream.encode(None))
    return buffer.getvalue()


def by_pyav(content: bytes) -> np.ndarray:
    """`(samples,)`: PyAV's own conversion to mono floats, of stereo the mean."""
    stereo = av.AudioResampler(format="fltp", layout="stereo", rate=RATE)
    with av.open(io.BytesIO(content)) as file:
        frames = [converted for frame in file.decode(audio=0) for converted in stereo.resample(frame)]
    return np.concatenate([frame.to_ndarray() for frame in frames], axis=1).mean(axis=0)


@pytest.mark.parametrize(
    ("container", "codec"),
    [("ipod", "aac"), ("mp4", "alac"), ("adts", "aac"), ("webm", "libopus"), ("mov", "pcm_s16le"), ("matroska", "flac"),
     ("avi", "pcm_u8"), ("ac3", "ac3"), ("wv", "wavpack"), ("tta", "tta")],
)  # fmt: skip
def test_the_samples_are_those_that_pyav_decodes(container, codec):
    samples = source()
    content = encode(container, codec, samples)
    waveform, rate = read_audio(content)
    np.testing.assert_allclose(waveform, by_pyav(content), atol=1e-6)
    assert rate == RATE and abs(len(waveform) - samples.shape[1]) <= 2 * FRAME
    middle = samples.mean(axis=0)[FRAME * 20 : FRAME * 60]
    shifts = range(-FRAME, FRAME + 1, 1)
    best = max(shifts, key=lambda shift: middle @ waveform[FRAME * 20 + shift : FRAME * 60 + shift])
    assert abs(best) <= FRAME and (best == 0 or codec in ("aac", "ac3"))
    np.testing.assert_allclose(load_audio(content), resample(waveform, RATE, 16_000), atol=1e-6)


def test_of_a_video_the_sound_is_read(tmp_path):
    path = tmp_path / "street.mp4"
    path.write_bytes(encode("mp4", "aac", source(), picture=True))
    assert find_audio_files(tmp_path).sounds == [path]
    assert len(load_audio(path)) == pytest.approx(32_000, abs=FRAME)


def test_a_video_without_sound_says_so():
    with av.open(buffer := io.BytesIO(), "w", format="mp4") as file:
        video = file.add_stream("mpeg4", rate=10)
        video.width = video.height = 16
        video.pix_fmt = "yuv420p"
        file.mux([*video.encode(av.VideoFrame(16, 16, "yuv420p")), *video.encode(None)])
    with pytest.raises(AudioError, match="nor can FFmpeg \\(there is no sound in it\\)"):
        load_audio(buffer.getvalue())


@pytest.mark.parametrize(("container", "what"), [("matroska", "is truncated"), ("ipod", "nor can FFmpeg")])
def test_half_a_file_is_an_error(container, what):
    content = encode(container, "aac" if container == "ipod" else "flac", source())
    with pytest.raises(AudioError, match=what):
        load_audio(content[: len(content) // 2])


def test_a_playlist_opens_no_other_file(tmp_path):
    secret = tmp_path / "secret.mp4"
    secret.write_bytes(encode("mp4", "aac", source()))
    for playlist in (
        f"#EXTM3U\n#EXTINF:2,\nfile://{secret}\n#EXT-X-ENDLIST\n",
        f"ffconcat version 1.0\nfile {secret}\n",
    ):
        with pytest.raises(AudioError, match="not a sound"):
            load_audio(playlist.encode())
