"""The chain of effects of a training clip: `--augment NAME[:PROBABILITY][:LOW..HIGH] …`, applied in that order.

gain  gain:0.8  gain:0.8:-12..12  noise_folder:0.5:5..20:recordings/traffic  room_folder:recordings/rooms
"""

import difflib
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.random import Generator

from urbansound_hf.audio.files import SOUND_NAMES, find_audio_files
from urbansound_hf.augment.effects import EFFECTS, FLAG, HERTZ
from urbansound_hf.errors import UserError, UserErrors
from urbansound_hf.layout import expand_user


class Effect(NamedTuple):
    """One word of `--augment`, read and checked; `low` to `high` in the effect's unit, `sounds` those of its folder."""

    name: str
    probability: float
    low: float
    high: float
    sounds: tuple[Path, ...] = ()


def parse_effects(specs: Sequence[str]) -> list[Effect]:
    """Parses the values of `--augment`, in their order.

    Args:
        specs: each `NAME[:PROBABILITY][:LOW..HIGH][:FOLDER]`; the range is in the effect's own unit, see `EFFECTS`.

    Raises:
        UserErrors: every mistake: unknown effects, probabilities outside 0 to 1, ranges that are reversed or not
            possible, folders without sounds.

    Examples:
        >>> noise, slower = ush.augment.parse_effects(["pink_noise:1:10..10", "time_stretch:1:0.7..0.7"])
        >>> noise.name, noise.probability, noise.low, noise.high  # 10 dB signal-to-noise ratio
        ('pink_noise', 1.0, 10.0, 10.0)
    """
    found: list[Effect] = []
    problems: list[UserError] = []
    for spec in specs:
        try:
            found.append(_parse_effect(spec))
        except UserError as problem:
            problems.append(problem)
    if problems:
        raise UserErrors(problems)
    return found


def apply_effects(
    chain: Sequence[Effect], waveform: np.ndarray, sampling_rate: int, generator: Generator
) -> np.ndarray:
    """Applies effects to a clip, each with its probability and a value drawn from its range.

    Factors and frequencies are drawn uniformly on a logarithmic scale, so that half and double are equally likely. A
    result above full scale, or above the input's peak if that is higher, is attenuated as a whole: clipping would add
    overtones and change the SNR.

    Args:
        chain: what `parse_effects` returns.
        waveform: `(samples,)` float32, full scale 1.0; it is not changed.
        sampling_rate: in Hz.
        generator: the only source of randomness; the same state gives the same clip.

    Returns:
        `(samples,)` float32, at most full scale or the input's peak; speed, time_stretch and crop change its length.

    Examples:
        >>> effects = ush.augment.parse_effects(["speed:1:2..2"])
        >>> waveform = ush.load_audio("clip.wav")
        >>> waveform.shape, ush.augment.apply_effects(effects, waveform, 16_000, np.random.default_rng(0)).shape
        ((64000,), (32000,))
    """
    highest = max(1.0, float(np.abs(waveform).max(initial=0)))
    for effect in chain:
        kind = EFFECTS[effect.name]
        if generator.random() < effect.probability:
            logarithmic = kind.unit in ("times", HERTZ)
            low, high = (math.log(end) if logarithmic else end for end in (effect.low, effect.high))
            value = generator.uniform(low, high)
            value = math.exp(value) if logarithmic else value
            sounds = [effect.sounds] * kind.needs_folder
            waveform = kind.run(waveform, sampling_rate, value, generator, *sounds)
    return waveform / max(1.0, float(np.abs(waveform).max(initial=0)) / highest)


NUMBER = r"-?\d*\.?\d+"
SPEC = re.compile(rf"([^:]*)(?::({NUMBER}))?(?::({NUMBER})\.\.({NUMBER}))?(?::(.*))?\Z", re.DOTALL)


def _parse_effect(spec: str) -> Effect:
    name, probability, low, high, rest = SPEC.findall(spec)[0]  # "" where absent
    if name not in EFFECTS:
        near = difflib.get_close_matches(name, EFFECTS, n=1)
        fix = f"did you mean {near[0]}?" if near else f"there are {', '.join(EFFECTS)}"
        raise UserError(f"there is no effect {name!r}", FLAG, fix)
    kind, needs_folder = EFFECTS[name], EFFECTS[name].needs_folder
    chance = float(probability or kind.probability)
    ends = (float(low), float(high)) if low else kind.default
    (lowest, highest), words = kind.limits, "[:PROBABILITY][:LOW..HIGH]" if kind.unit else "[:PROBABILITY] only"
    rules = {
        f"{name} takes {words}": not rest or needs_folder,
        f"{name} needs a folder of sounds": rest or not needs_folder,
        f"the probability of {name} must lie in 0..1": 0 <= chance <= 1,
        f"{name} takes no range": not low or kind.unit,
        f"the range of {name} must be LOW..HIGH within {lowest:g}..{highest:g} {kind.unit}":
            lowest <= ends[0] <= ends[1] <= highest,
    }  # fmt: skip
    if broken := next((rule for rule, holds in rules.items() if not holds), ""):
        raise UserError(f"{broken}, found {spec!r}", FLAG, f"for example {kind.spec(name)}")
    if not needs_folder:
        return Effect(name, chance, *ends)
    folder = expand_user(rest)
    sounds = tuple(find_audio_files(folder).sounds) if folder.is_dir() else ()
    if not sounds:
        what = f"{name} needs a folder of sounds; {rest} {'holds none' if folder.is_dir() else 'is no folder'}"
        raise UserError(what, FLAG, SOUND_NAMES)
    return Effect(name, chance, *ends, sounds)
