"""What every effect does to one sound, to see and to hear, and the table of them all.

    python -m benchmarks.augmentation_tour DIR [--sound FILE] [--page PAGE.md]

`docs/augmentation.md` and the folder beside it were made so.
"""

from __future__ import annotations

import argparse
import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import soundfile

from urbansound_hf.audio import spectrogram
from urbansound_hf.audio.io import SAMPLING_RATE, load_audio, to_wav
from urbansound_hf.augment import spec_augment
from urbansound_hf.augment.chain import apply_effects, parse_effects
from urbansound_hf.augment.effects import EFFECTS
from urbansound_hf.augment.mixing import mix
from urbansound_hf.data import synthetic
from urbansound_hf.errors import UserError, exit_code
from urbansound_hf.features.extract import fill
from urbansound_hf.plots import sounds
from urbansound_hf.plots.style import drawing
from urbansound_hf.text import table

RATE = SAMPLING_RATE
BEGIN, END = "<!-- begin effects -->", "<!-- end effects -->"
SHOWN = {
    "white_noise": 10, "pink_noise": 10, "brown_noise": 5, "noise_folder": 5, "silence": 0.25, "shift": 0.4,
    "crop": 0.7, "gain": -12, "polarity": 0, "speed": 1.25, "time_stretch": 0.8, "pitch_shift": 4, "low_pass": 1000,
    "high_pass": 1000, "band_pass": 1000, "equalizer": 12, "room": 0.8, "room_folder": 0,
}  # fmt: skip
"""A value of each effect that can be seen and heard, at the strong end of the default range or beyond it."""


def example(name: str = "children_playing") -> np.ndarray:
    """One second of a synthetic sound, soft enough that no effect has to make it softer."""
    return synthetic.waveform(name, np.random.default_rng(4), 1.0, RATE) / 4


def tour(before: np.ndarray) -> dict[str, np.ndarray]:
    """The sound before and after everything that can happen to it, in the order of the pictures."""
    other = np.resize(example("siren"), len(before))
    clips = {"before": before, **after_effects(before)}
    nothing = np.zeros(1, np.float32)
    for how in ("mixup", "cutmix"):
        clips[how], _ = mix(before, other, nothing, nothing, 8.0, how, 0, np.random.default_rng(3))
    for how in ("zeros", "repeat", "reflect"):
        clips[f"fill_{how}"] = fill(before[: len(before) * 2 // 5], len(before), how)
    return clips


def after_effects(before: np.ndarray) -> dict[str, np.ndarray]:
    """What comes out of each effect; the folders hold synthetic music and a room of three echoes."""
    changed = {}
    with tempfile.TemporaryDirectory() as folder:
        echoes = np.zeros(RATE // 2, np.float32)
        echoes[[0, 1500, 3300, 5600]] = 1.0, 0.6, 0.4, 0.25
        for name, sound in (("noise_folder", example("street_music")), ("room_folder", echoes)):
            (Path(folder) / name).mkdir()
            (Path(folder) / name / "sound.wav").write_bytes(to_wav(sound, RATE))
        for name, kind in EFFECTS.items():
            value = f":{SHOWN[name]}..{SHOWN[name]}" if kind.unit else ""
            chain = parse_effects([f"{name}:1{value}{f':{folder}/{name}' * kind.needs_folder}"])
            changed[name] = apply_effects(chain, before, RATE, np.random.default_rng(3))
    return changed


def title(name: str) -> str:
    """ "gain -12 dB": with the value that is shown, if there is one."""
    return f"{name} {SHOWN[name]:g} {EFFECTS[name].unit}" if name in EFFECTS and EFFECTS[name].unit else name


def sheet(clips: Mapping[str, np.ndarray], path: Path, columns: int = 5) -> None:
    """Draws waveform above mel spectrogram of each clip, on the same axes and colours; SpecAugment is the last one."""
    from PIL import Image

    levels = {name: spectrogram.mel_spectrogram(clip, RATE) for name, clip in clips.items()}
    masked = spec_augment.mask_spectrogram(levels["before"].levels, np.random.default_rng(1), widths=(0.3, 0.3))
    levels["spec_augment"] = levels["before"]._replace(levels=masked)
    shown = {**clips, "spec_augment": clips["before"]}
    seconds, peak = max(map(len, clips.values())) / RATE, max(float(np.abs(clip).max()) for clip in clips.values())
    rows = -(-len(shown) // columns)
    with drawing(path, "One sound, and all that can happen to it", "", (2.2 * columns, 1.7 * rows)) as figure:
        grid = figure.subplots(2 * rows, columns, sharex=True, sharey="row", height_ratios=(1, 2.2) * rows)
        for number, (name, clip) in enumerate(shown.items()):
            top, bottom = grid[2 * (number // columns) :, number % columns][:2]
            sounds.draw_wave(top, clip, RATE, peak)
            sounds.draw_levels(bottom, levels[name], "mel", sounds.level_limits(levels["before"].levels))
            sounds.time_axis(bottom, seconds)
            top.set_title(title(name), fontsize=9)
            top.set(ylabel="", yticks=[])
            bottom.tick_params(labelsize=8)
            bottom.label_outer()
            bottom.set_ylabel("Hz" if number % columns == 0 else "")
        for axes in (axes for axes in grid.flat if not axes.has_data()):
            axes.set_axis_off()
    Image.open(path).convert("RGB").quantize(128).save(path, optimize=True)  # a third of the bytes, for the repository


def write(folder: Path, before: np.ndarray) -> int:
    """Writes `effects.png`, and every clip of the tour as Ogg Vorbis; returns their number."""
    folder.mkdir(parents=True, exist_ok=True)
    clips = tour(before)
    sheet(clips, folder / "effects.png")
    for name, waveform in clips.items():
        soundfile.write(folder / f"{name}.ogg", waveform, RATE, format="OGG", subtype="VORBIS")
    return len(clips)


def effect_table(folder: str) -> str:
    """Every effect with its defaults, as Markdown; the sounds lie in `folder`."""
    rows = [
        (
            f"`{kind.spec(name)}`",
            f"{kind.unit}, {kind.limits[0]:g}..{kind.limits[1]:g}" if kind.unit else "–",
            kind.help,
            kind.use,
            f"[{name}]({folder}/{name}.ogg)",
        )
        for name, kind in EFFECTS.items()
    ]
    return table(("with its defaults", "unit, what is possible", "what it does", "helps where", "sound"), rows, texts=5)


def renew(page: Path, folder: str) -> None:
    """Writes the table of a page anew, between its two marks.

    Raises:
        UserError: the page has no such place.
    """
    text = page.read_text(encoding="utf-8") if page.is_file() else ""
    pattern = f"(?<={BEGIN}\n).*(?={END})"
    if not re.search(pattern, text, re.DOTALL):
        raise UserError(f"the page needs a place for the table: the lines {BEGIN} and {END}", str(page))
    page.write_text(re.sub(pattern, lambda _: f"{effect_table(folder)}\n", text, flags=re.DOTALL), encoding="utf-8")


def main(argv: Sequence[str] | None = None) -> int:
    about = "What every effect does to one sound, to see and to hear."
    parser = argparse.ArgumentParser(prog="python -m benchmarks.augmentation_tour", description=about)
    parser.add_argument("folder", type=Path, metavar="DIR", help="where the picture and the sounds go")
    parser.add_argument("--sound", type=Path, metavar="FILE", help="a sound of yours; absent: a synthetic one")
    parser.add_argument("--page", type=Path, metavar="PAGE.md", help="a page whose table is to be written anew")
    options = parser.parse_args(argv)
    count = write(options.folder, load_audio(options.sound, RATE) if options.sound else example())
    if options.page:
        renew(options.page, options.folder.name)
    print(f"{options.folder}/effects.png, and {count} sounds beside it")
    return 0


if __name__ == "__main__":
    raise SystemExit(exit_code(main))
