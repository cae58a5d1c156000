"""Which effects a training clip goes through: `--augment NAME[:PROBABILITY][:LOW..HIGH] …`, in that order.

gain  gain:0.8  gain:0.8:-12..12  noise_folder:0.5:5..20:recordings/traffic  room_folder:recordings/rooms
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.random import Generator

from urbansound_hf import audio, effects
from urbansound_hf.errors import UserError, UserErrors

FLAG = "--augment"


@dataclass(frozen=True)
class EffectKind:
    """What there is to know of an effect before it is used.

    Args:
        run: `(waveform, sampling_rate, value, generator)` → waveform; of a folder also `sounds`.
        help: what it does, in a line.
        use: when it helps, in a line.
        probability: the default, 0 to 1.
        default: the default range of its value in `unit`; an effect without a unit takes no range.
        limits: the values that are possible.
        needs_folder: whether it takes sounds of the user's.
    """

    run: Callable[..., np.ndarray]
    help: str
    use: str
    probability: float = 0.5
    unit: str = ""
    default: tuple[float, float] = (0.0, 0.0)
    limits: tuple[float, float] = (0.0, 0.0)
    needs_folder: bool = False

    def spec(self, name: str) -> str:
        """How it is written out: `gain:0.5:-12..6`."""
        value = ":{:g}..{:g}".format(*self.default) if self.unit else ""
        return f"{name}:{self.probability:g}{value}{':FOLDER' * self.needs_folder}"


SNR, SHARE, HERTZ = "dB SNR", "of the clip", "Hz"
LOUD, PART, HEARD = (-30, 100), (0, 1), (20, 20_000)

EFFECTS: dict[str, EffectKind] = {
    "white_noise": EffectKind(
        effects.white_noise, "adds noise, equally strong at all frequencies", "hissing recorders, small data",
        0.5, SNR, (10, 30), LOUD,
    ),
    "pink_noise": EffectKind(
        effects.pink_noise, "adds noise that falls by 3 dB an octave", "rain, crowds, far traffic behind the sound",
        0.5, SNR, (10, 30), LOUD,
    ),
    "brown_noise": EffectKind(
        effects.brown_noise, "adds noise that falls by 6 dB an octave", "wind in the microphone, near traffic",
        0.5, SNR, (10, 30), LOUD,
    ),
    "noise_folder": EffectKind(
        effects.noise_folder, "adds a stretch of a sound from the folder", "the place of use can be recorded without "
        "the classes", 0.5, SNR, (5, 20), LOUD, True,
    ),
    "silence": EffectKind(
        effects.silence, "sets a stretch to zero", "no single event of a clip shall decide",
        0.3, SHARE, (0.05, 0.25), PART,
    ),
    "shift": EffectKind(
        effects.shift, "moves the sound later, in a circle", "events sit at the same place in all training clips",
        0.5, SHARE, (0, 1), PART,
    ),
    "crop": EffectKind(
        effects.crop, "keeps a stretch from a random place", "short or cut-off clips are to be recognised",
        0.5, SHARE, (0.7, 1), PART,
    ),
    "gain": EffectKind(
        effects.gain, "makes it louder or softer", "distances differ; models that scale their input don't notice",
        0.5, "dB", (-12, 6), (-60, 60),
    ),
    "polarity": EffectKind(
        effects.polarity, "turns the waveform upside down", "costs nothing; only models of raw waveforms notice",
    ),
    "speed": EffectKind(
        effects.speed, "changes pitch and tempo together", "machines at other speeds, animals of other sizes",
        0.5, "times", (0.9, 1.1), (0.25, 4),
    ),
    "time_stretch": EffectKind(
        effects.time_stretch, "changes the tempo, not the pitch", "rhythms differ: barks, hammers, music",
        0.3, "times", (0.8, 1.25), (0.25, 4),
    ),
    "pitch_shift": EffectKind(
        effects.pitch_shift, "changes the pitch, not the tempo", "horns, sirens, voices of other pitch",
        0.3, "semitones", (-2, 2), (-24, 24),
    ),
    "low_pass": EffectKind(
        effects.low_pass, "takes away what is above", "far or muffled sounds, cheap microphones, strong compression",
        0.3, HERTZ, (2000, 7000), HEARD,
    ),
    "high_pass": EffectKind(
        effects.high_pass, "takes away what is below", "small microphones, rumble filters",
        0.3, HERTZ, (50, 500), HEARD,
    ),
    "band_pass": EffectKind(
        effects.band_pass, "keeps two octaves around it", "telephones and loudspeakers",
        0.2, HERTZ, (500, 2000), HEARD,
    ),
    "equalizer": EffectKind(
        effects.equalizer, "lifts or lowers an octave at a random frequency", "microphones and rooms colour the sound",
        0.5, "dB", (-12, 12), (-40, 40),
    ),
    "room": EffectKind(
        effects.room, "puts it into a simulated room with this RT60", "indoors and between houses, after dry training",
        0.3, "s", (0.1, 0.8), (0.02, 10),
    ),
    "room_folder": EffectKind(
        effects.room_folder, "puts it into a room whose impulse response is in the folder", "the place of use is known",
        0.3, needs_folder=True,
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Effect:
    """One word of `--augment`, read and checked; `low` to `high` in the effect's unit, `sounds` those of its folder."""

    name: str
    probability: float
    low: float
    high: float
    sounds: tuple[Path, ...] = ()


def parse(specs: Sequence[str]) -> list[Effect]:
    """Reads the words of `--augment`, in their order.

    Raises:
        UserErrors: all that is wrong: unknown effects, probabilities outside 0 to 1, ranges that are reversed or not
            possible, folders without sounds.
    """
    found: list[Effect] = []
    problems: list[UserError] = []
    for spec in specs:
        try:
            found.append(_parse(spec))
        except UserError as problem:
            problems.append(problem)
    if problems:
        raise UserErrors(problems)
    return found


def apply(chain: Sequence[Effect], waveform: np.ndarray, sampling_rate: int, generator: Generator) -> np.ndarray:
    """Sends a clip through the effects, each with its probability and a value drawn from its range.

    Factors and frequencies are drawn evenly on a logarithmic scale, so that half and double are as likely. What comes
    out above full scale is made softer as a whole, not cut: cutting would add overtones and undo the promised SNR.

    Args:
        chain: what `parse` returns.
        waveform: `(samples,)` float32 in [-1, 1]; is left as it is.
        sampling_rate: in Hz.
        generator: all that is drawn is drawn from it; the same state gives the same clip.

    Returns:
        `(samples,)` float32 in [-1, 1]; speed, time_stretch and crop change the length.
    """
    for effect in chain:
        kind = EFFECTS[effect.name]
        if generator.random() < effect.probability:
            value = _draw(effect.low, effect.high, kind.unit, generator)
            sounds = [effect.sounds] * kind.needs_folder
            waveform = kind.run(waveform, sampling_rate, value, generator, *sounds)
    return waveform / max(1.0, float(np.abs(waveform).max()))


def _draw(low: float, high: float, unit: str, generator: Generator) -> float:
    if unit in ("times", HERTZ):
        return math.exp(generator.uniform(math.log(low), math.log(high)))
    return generator.uniform(low, high)


# ---- reading one word

NUMBER = r"-?\d*\.?\d+"
SPEC = re.compile(rf"([^:]*)(?::({NUMBER}))?(?::({NUMBER})\.\.({NUMBER}))?(?::(.*))?\Z", re.DOTALL)


def _parse(spec: str) -> Effect:
    name, probability, low, high, rest = SPEC.findall(spec)[0]  # "" where absent
    if name not in EFFECTS:
        near = difflib.get_close_matches(name, EFFECTS, n=1)
        fix = f"did you mean {near[0]}?" if near else f"there are {', '.join(EFFECTS)}"
        raise UserError(f"there is no effect {name!r}", FLAG, fix)
    kind = EFFECTS[name]
    chance = float(probability or kind.probability)
    ends = (float(low), float(high)) if low else kind.default
    if broken := _broken_rule(name, kind, chance, ends, bool(low), rest):
        raise UserError(f"{broken}, found {spec!r}", FLAG, f"for example {kind.spec(name)}")
    return Effect(name, chance, *ends, sounds=_sounds(name, rest) if kind.needs_folder else ())


def _broken_rule(
    name: str, kind: EffectKind, probability: float, ends: tuple[float, float], has_range: bool, rest: str
) -> str:
    lowest, highest = kind.limits
    if rest and not kind.needs_folder:
        return f"{name} takes {'[:PROBABILITY][:LOW..HIGH]' if kind.unit else '[:PROBABILITY] only'}"
    if kind.needs_folder and not rest:
        return f"{name} needs a folder of sounds"
    if not 0 <= probability <= 1:
        return f"the probability of {name} must lie in 0..1"
    if has_range and not kind.unit:
        return f"{name} takes no range"
    if not lowest <= ends[0] <= ends[1] <= highest:
        return f"the range of {name} must be LOW..HIGH within {lowest:g}..{highest:g} {kind.unit}"
    return ""


def _sounds(name: str, folder: str) -> tuple[Path, ...]:
    path = Path(folder).expanduser()
    files = (file for file in sorted(path.rglob("*")) if file.suffix.lower() in audio.SUFFIXES and file.name[0] != ".")
    sounds = tuple(file for file in files if file.is_file())
    if not sounds:
        what = f"{name} needs a folder of sounds; {folder} {'holds none' if path.is_dir() else 'is no folder'}"
        raise UserError(what, FLAG, f"sounds end in {', '.join(sorted(audio.SUFFIXES))}")
    return sounds
