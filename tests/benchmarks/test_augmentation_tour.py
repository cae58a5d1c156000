"""The tour of the effects: its files, and a page whose table is never stale."""

from __future__ import annotations

import numpy as np
import pytest
import soundfile
from PIL import Image

from benchmarks import augmentation_tour
from tests.conftest import ROOT
from urbansound_hf.audio.io import SAMPLING_RATE, load_audio
from urbansound_hf.augment.effects import EFFECTS
from urbansound_hf.errors import UserError

PAGE = ROOT / "docs/augmentation.md"


def tour(*words) -> None:
    assert augmentation_tour.main([*map(str, words)]) == 0


def test_the_table_of_the_page_is_fresh():
    text = PAGE.read_text(encoding="utf-8")
    table = augmentation_tour.effect_table("augmentation")
    assert f"{augmentation_tour.BEGIN}\n{table}\n{augmentation_tour.END}" in text, (
        "write it anew: python -m benchmarks.augmentation_tour docs/augmentation --page docs/augmentation.md"
    )
    for name, kind in EFFECTS.items():
        assert kind.spec(name) in table and kind.use in table and str(kind.limits[1]) in table


def test_the_sounds_beside_the_page_are_those_of_the_tour():
    clips = augmentation_tour.tour(augmentation_tour.example())
    assert set(EFFECTS) < set(clips)
    assert sorted(path.stem for path in PAGE.with_suffix("").glob("*.ogg")) == sorted(clips)
    for name, clip in clips.items():
        stored = load_audio(PAGE.with_suffix("") / f"{name}.ogg")
        assert len(stored) == len(clip), name
        assert np.sqrt(np.mean(stored**2)) == pytest.approx(np.sqrt(np.mean(clip**2)), rel=0.25, abs=2e-3), name
    sizes = {path.name: path.stat().st_size for path in PAGE.with_suffix("").iterdir()}
    assert sizes.pop("effects.png") < 300_000 and max(sizes.values()) < 15_000, "small enough for a repository"


def test_every_effect_is_seen_and_heard(tmp_path, capsys):
    soundfile.write(tmp_path / "mine.wav", augmentation_tour.example()[:8000], SAMPLING_RATE)
    page = tmp_path / "page.md"
    page.write_text(
        f"# Mine\n{augmentation_tour.BEGIN}\n| a stale row |\n{augmentation_tour.END}\nend\n", encoding="utf-8"
    )
    tour(tmp_path / "new/tour", "--sound", tmp_path / "mine.wav", "--page", page)
    sounds = sorted((tmp_path / "new/tour").glob("*.ogg"))
    assert f"effects.png, and {len(sounds)} sounds" in capsys.readouterr().out and len(sounds) > len(EFFECTS)
    before = load_audio(tmp_path / "new/tour/before.ogg")
    assert len(before) == 8000, "the sound that was given"
    picture = np.asarray(Image.open(tmp_path / "new/tour/effects.png").convert("RGB"))
    assert picture.shape[0] > 1000 and len(np.unique(picture.reshape(-1, 3), axis=0)) > 50
    text = page.read_text(encoding="utf-8")
    assert "stale" not in text and "tour/gain.ogg" in text and text.startswith("# Mine\n") and text.endswith("\nend\n")


def test_a_page_without_a_place_for_the_table_is_refused(tmp_path):
    (tmp_path / "page.md").write_text("# Mine\n", encoding="utf-8")
    for page in (tmp_path / "page.md", tmp_path / "none.md"):
        with pytest.raises(UserError, match="needs a place for the table: the lines <!-- begin effects -->"):
            augmentation_tour.renew(page, "x")


def test_titles_tell_the_value_that_is_shown():
    assert augmentation_tour.title("gain") == "gain -12 dB" and augmentation_tour.title("polarity") == "polarity"
    assert set(augmentation_tour.SHOWN) == set(EFFECTS)
