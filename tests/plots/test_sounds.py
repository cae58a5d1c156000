"""Pictures of sounds, and the timeline of infer.py --plot: what they say, that nothing is cut off, what they refuse."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from scipy.signal import chirp

from tests.helpers import tiny
from tests.plots.test_evaluation import readable_throughout
from urbansound_hf import cli
from urbansound_hf.audio import spectrogram
from urbansound_hf.audio.dsp import from_mel, to_mel
from urbansound_hf.errors import UserError, exit_code
from urbansound_hf.inference.output import Classification, Prediction
from urbansound_hf.plots import sounds

RATE = 16_000
LONG = "Outside, rural or natural, and a name that goes on and on"
KINDS = [sounds.waveform, sounds.spectrogram, sounds.mel_spectrogram, sounds.mfcc]


def sine(hertz: float, seconds: float, rate: int = RATE) -> np.ndarray:
    return np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate).astype(np.float32)


# ---- numbers


@pytest.mark.parametrize("rate", [8000, 16_000, 44_100, 192_000])
@pytest.mark.parametrize("seconds", [0.05, 1.0])
def test_a_full_scale_sine_is_zero_decibels_at_its_frequency(rate, seconds):
    spectrum = spectrogram.spectrogram(sine(1000, seconds, rate), rate)
    middle = spectrum.levels[:, spectrum.levels.shape[1] // 2]
    loudest = middle.argmax()
    assert middle[loudest] == pytest.approx(0, abs=1.5)
    assert spectrum.bands[loudest - 1] < 1000 < spectrum.bands[loudest + 2]
    assert (spectrum.bands[0], spectrum.bands[-1]) == (0, rate / 2)
    assert (spectrum.times[0], spectrum.times[-1]) == (0, pytest.approx(seconds))


def test_mel_bands_are_in_their_place_and_as_loud_as_the_sound():
    spectrum = spectrogram.mel_spectrogram(sine(1000, 1), RATE)
    band = spectrum.levels[:, 100].argmax()
    assert spectrum.bands[band] < 1000 < spectrum.bands[band + 1]
    assert spectrum.levels[band, 100] == pytest.approx(0, abs=2)
    assert from_mel(to_mel(440.0)) == pytest.approx(440)


def test_a_long_recording_is_averaged_to_as_many_columns_as_a_picture_has_pixels():
    click = np.zeros(120 * RATE, np.float32)
    click[60 * RATE : 60 * RATE + 160] = 1
    spectrum = spectrogram.spectrogram(click, RATE)
    assert spectrum.levels.shape[1] <= spectrogram.MOST_COLUMNS
    loudest = spectrum.levels.max(axis=0).argmax()  # 10 ms of two minutes are not lost between the columns
    assert spectrum.times[loudest] - 0.1 <= 60 <= spectrum.times[loudest + 1] + 0.1
    assert (np.diff(spectrum.times) > 0).all()


def test_mfcc_are_scaled_each_by_itself():
    spectrum = spectrogram.mfcc(np.random.default_rng(0).uniform(-1, 1, RATE).astype(np.float32), RATE)
    assert spectrum.levels.shape[0] == spectrogram.N_MFCC
    assert spectrum.levels.mean(axis=1) == pytest.approx(0, abs=1e-4)
    assert spectrum.levels.std(axis=1) == pytest.approx(1, abs=1e-4)
    assert not spectrogram.mfcc(np.zeros(RATE, np.float32), RATE).levels.any()


def test_loudness_is_the_root_mean_square():
    assert spectrogram.loudness(sine(100, 1)) == pytest.approx(-3.01, abs=0.01)
    assert spectrogram.loudness(np.zeros(10)) == spectrogram.FLOOR


# ---- pictures


@pytest.mark.parametrize("draw", KINDS)
@pytest.mark.parametrize(
    ("rate", "samples"),
    [
        (RATE, sine(700, 0.05)),
        (8000, np.zeros(8000, np.float32)),
        (44_100, sine(300, 3, 44_100)),
        (RATE, sine(90, 130)),
    ],
    ids=["50 ms", "silence", "44.1 kHz", "130 s"],
)
def test_every_picture_can_be_read(draw, rate, samples):
    figure = draw(samples, rate, "a_name_that_is_too_long_" * 9)
    readable_throughout(figure)
    axes = figure.axes[0]
    assert axes.get_xlabel() == ("time (min:s)" if len(samples) / rate > 120 else "time (s)")
    assert axes.get_xlim() == (0, pytest.approx(len(samples) / rate))


@pytest.mark.parametrize("draw", KINDS[1:3])
def test_levels_and_frequencies_have_units(draw):
    axes, bar = draw(sine(1000, 1), RATE).axes
    assert axes.get_ylabel() == "frequency (Hz)" and bar.get_ylabel() == "level (dBFS)"
    assert {"1k", "2k"} <= {label.get_text() for label in axes.get_yticklabels()}


def test_a_log_axis_spreads_the_low_frequencies():
    axes = sounds.spectrogram(sine(1000, 1), RATE, scale="log").axes[0]
    assert axes.get_yscale() == "log"
    assert [label.get_text() for label in axes.get_yticklabels()][:4] == ["20", "50", "100", "200"]


def test_a_waveform_of_many_samples_keeps_its_peaks():
    samples = np.zeros(10 * RATE, np.float32)
    samples[12_345] = -0.8
    (band,) = sounds.waveform(samples, RATE).axes[0].collections
    assert band.get_paths()[0].vertices[:, 1].min() == pytest.approx(-0.8)


def test_before_and_after_share_axes_and_colours():
    figure = sounds.before_after(sine(500, 2), 0.1 * sine(500, 1), RATE, "crop")
    readable_throughout(figure)
    before, after, spectrum, other = figure.axes[:4]
    assert (before.get_title(loc="left"), after.get_title(loc="left")) == ("before", "after")
    assert before.get_ylim() == after.get_ylim() and spectrum.get_xlim() == other.get_xlim() == (0, 2)
    assert spectrum.collections[0].get_clim() == other.collections[0].get_clim()


@pytest.mark.parametrize(("suffix", "begins"), [("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF")])
def test_the_suffix_is_the_format(tmp_path, suffix, begins):
    path = tmp_path / f"x.{suffix}"
    sounds.spectrogram(chirp(np.arange(RATE) / RATE, 50, 1, 7000).astype(np.float32), RATE, "$a_b$", path)
    assert path.read_bytes().startswith(begins)


# ---- the timeline of classes


def timeline_of(windows: int, labels=("siren", LONG)) -> Classification:
    told = [Prediction(2 * i, 2 * i + 4, ((labels[i % 2], 0.7), (labels[1 - i % 2], 0.2))) for i in range(windows)]
    return Classification("street.wav", tuple(told), Prediction(0, told[-1].end, told[0].top))


def test_classes_lie_under_the_sound_on_one_time_axis():
    result = timeline_of(4)
    figure = sounds.timeline(sine(440, 10), RATE, result)
    readable_throughout(figure)
    wave, mel, rows = figure.axes[:3]
    assert wave.get_xlim() == mel.get_xlim() == rows.get_xlim() == (0, 10)
    left, right = zip(*((axes.get_position().x0, axes.get_position().x1) for axes in (wave, mel, rows)), strict=True)
    assert np.ptp(left) == pytest.approx(0, abs=1e-6) and np.ptp(right) == pytest.approx(0, abs=1e-6)
    assert [axes.get_xlabel() for axes in (wave, mel, rows)] == ["", "", "time (s)"]
    assert rows.get_yticklabels()[0].get_text() == "siren"
    scores = rows.collections[0].get_array()
    assert scores.reshape(2, 4)[0].tolist() == pytest.approx([0.7, 0.2, 0.7, 0.2])
    edges = rows.collections[0].get_coordinates()[0, :, 0]
    assert edges.tolist() == [0, 3, 5, 7, 10]  # overlapping windows share the time between their middles


def test_a_score_that_was_not_asked_for_is_left_open():
    windows = (Prediction(0, 4, (("a", 0.9),)), Prediction(2, 6, (("b", 0.8),)))
    figure = sounds.timeline(sine(440, 6), RATE, Classification("x.wav", windows, Prediction(0, 6, (("a", 0.5),))))
    assert figure.axes[2].collections[0].get_array().mask.sum() == 2
    assert "--top_k" in figure.get_supxlabel()


def test_a_short_clip_is_one_prediction_as_bars():
    top = tuple((f"class_{number}", 0.5 / number) for number in range(1, 15))
    figure = sounds.timeline(sine(440, 0.05), RATE, Classification("a/b.wav", (Prediction(0, 0.05, top),)))
    readable_throughout(figure)
    assert figure.get_suptitle() == "b.wav: class 1 0.50"
    bars = figure.axes[2]
    assert bars.get_xlabel() == "probability" and len(bars.patches) == sounds.MOST_CLASSES


def test_where_pictures_go(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert sounds.plot_targets(["a.wav"], "x.SVG") == [Path("x.SVG")]
    assert sounds.plot_targets([Path("a/x.wav"), Path("b/x.mp3"), b""], "new/pics") == [
        Path("new/pics/x.png"), Path("new/pics/x-2.png"), Path("new/pics/sound.png")]  # fmt: skip
    for target, what, fix in [
        ("x.png", "one file holds the figure of one sound, found 2 sounds", "give a folder, as --plot x"),
        ("x.gif", "a figure is saved as png, svg or pdf, found gif", "give x.png"),
    ]:
        with pytest.raises(UserError, match=what) as error:
            sounds.plot_targets(["a.wav", "b.wav"], target)
        assert fix in error.value.fix
    with pytest.raises(UserError, match="the folder of the figure does not exist"):
        sounds.plot_targets(["a.wav"], "gone/x.png")


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return tiny.save("yamnet", tmp_path_factory.mktemp("run"), clip_seconds=1.0)


def test_infer_draws_what_it_says(tmp_path, monkeypatch, capsys, model):
    monkeypatch.chdir(tmp_path)
    soundfile.write("long.wav", sine(440, 3), RATE)
    soundfile.write("short.wav", sine(440, 0.5, 8000), 8000)
    Path("text.wav").write_text("no sound", encoding="utf-8")

    def run(*arguments: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["infer.py", *arguments, "--model", str(model), "--device", "cpu"])
        return exit_code(lambda: cli.infer(sys.argv[1:])), capsys.readouterr().err

    assert run("long.wav", "--plot", "out.png")[0] == 0
    assert Path("out.png").read_bytes().startswith(b"\x89PNG")
    assert run("long.wav", "text.wav", "short.wav", "--plot", "pictures")[0] == 1
    assert sorted(path.name for path in Path("pictures").iterdir()) == ["long.png", "short.png"]
    code, told = run("long.wav", "short.wav", "--plot", "two.png")
    assert code == 2 and "one file holds the figure of one sound" in told and not Path("two.png").exists()
    assert run("text.wav", "--plot", "text.svg")[0] == 2 and not Path("text.svg").exists()
