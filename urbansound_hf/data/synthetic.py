"""The synthetic data set: ten procedural sounds in ten folds, in the layout of UrbanSound8K, for demos and tests.

A recording draws its own pitch, pace, room, noise and file format, and is cut into several slices that stay together
in one fold, as in UrbanSound8K. Scores on it prove that the machinery works and say nothing about real sound.
"""

import io
from collections.abc import Iterator, Sequence
from itertools import count, islice
from pathlib import Path

import numpy as np
import soundfile
from filelock import FileLock
from numpy.random import Generator

from urbansound_hf.audio.dsp import filtered, highpass, lowpass, noise, resonances, tone
from urbansound_hf.audio.resampling import resample
from urbansound_hf.data.urbansound8k import CLASSES, CLIP_SECONDS, METADATA_FILE
from urbansound_hf.errors import CommandParser, UserError, write_text, writing
from urbansound_hf.progress import Bar, quietly

VERSION = 1  # part of the marker: count it up when the sounds change, so that old copies are written anew
SYNTHESIS_RATE = 22_050  # Hz; files of higher rates hold nothing above 11 kHz, as many uploads do
FULL_LENGTH = 0.84  # share of clips of the full 4 s, as in UrbanSound8K
FOREGROUND = 0.65  # share of recordings of salience 1, as in UrbanSound8K

README = """Synthetic sounds in the layout of UrbanSound8K, written by urbansound_hf.synthetic.

Procedural: nothing here was recorded, and no sound is from UrbanSound8K. For demos and tests only; a score on it
says nothing about real sound.

version {version}, {clips} clips per class and fold, seed {seed}
"""
TITLE = README.partition("\n")[0]

FORMATS = (  # Hz, subtype, channels, share of recordings: the mixture of uploads that the real data set is
    (22_050, "PCM_16", 1, 0.40), (44_100, "PCM_16", 2, 0.25), (44_100, "PCM_16", 1, 0.10), (48_000, "PCM_24", 2, 0.10),
    (96_000, "PCM_24", 1, 0.03), (44_100, "PCM_32", 1, 0.03), (44_100, "FLOAT", 2, 0.03),
    (22_050, "IMA_ADPCM", 1, 0.03), (8_000, "PCM_U8", 1, 0.03),
)  # fmt: skip
ADPCM_BLOCK = 1017  # samples in a block at 22,050 Hz, mono; libsndfile fills the last one up with silence


def synthetic_dataset(root: str | Path, clips_per_class_and_fold: int = 4, seed: int = 0) -> Path:
    """Writes a synthetic data set in the layout of UrbanSound8K: WAV files in ten folds and the metadata CSV.

    Ten classes of procedural sound, at several sampling rates and formats. Does nothing if the same set exists
    already; replaces another synthetic set. The same arguments give the same bytes. Safe to call from several
    processes at once; the CSV is written last.

    Args:
        root: the folder to create; about 0.5 MB a clip.
        clips_per_class_and_fold: 1 or more; 1 gives 100 clips.
        seed: 0 or more.

    Returns:
        `root`.

    Raises:
        UserError: an argument is out of range, or `root` holds something else.

    Examples:
        >>> folder = ush.synthetic_dataset("sounds", clips_per_class_and_fold=1)
        >>> len(list(folder.glob("audio/fold*/*.wav")))
        100
    """
    root = Path(root)
    if clips_per_class_and_fold < 1 or seed < 0:
        raise UserError(f"clips must be at least 1 and seed at least 0, not {clips_per_class_and_fold} and {seed}")
    marker = README.format(version=VERSION, clips=clips_per_class_and_fold, seed=seed)
    if not _complete(root, marker):
        root.mkdir(parents=True, exist_ok=True)
        with writing(root), FileLock(root / ".lock"):
            if not _complete(root, marker):  # while this process waited, another may have written it
                _write_clips(root, marker, clips_per_class_and_fold, seed)
    return root


def _marker(root: Path) -> str:
    readme = root / "README.txt"
    return readme.read_text(errors="replace", encoding="utf-8") if readme.is_file() else ""


def _complete(root: Path, marker: str) -> bool:
    return (root / METADATA_FILE).is_file() and _marker(root) == marker


def _write_clips(root: Path, marker: str, clips_per_class_and_fold: int, seed: int) -> None:
    """Writes the set in place of another or an interrupted one; the CSV last."""
    if not _marker(root).startswith(TITLE) and any(path.name != ".lock" for path in root.iterdir()):
        raise UserError("holds files that are not a synthetic data set", str(root), "name a new or an empty folder")
    for old in (root / METADATA_FILE, *root.glob("audio/fold*/*.wav")):
        old.unlink(missing_ok=True)
    write_text(root / "README.txt", marker)
    rows = ["slice_file_name,fsID,start,end,salience,fold,classID,class"]
    for fold in Bar(range(1, 11), "Making the synthetic sounds", unit="folds"):
        (root / f"audio/fold{fold}").mkdir(parents=True, exist_ok=True)
        for class_id in range(len(CLASSES)):
            slices = (row for number in count() for row in _recording(root, fold, class_id, number, seed))
            rows += islice(slices, clips_per_class_and_fold)
    (root / METADATA_FILE).parent.mkdir(exist_ok=True)
    write_text(root / METADATA_FILE, "\n".join(rows) + "\n")


def _recording(root: Path, fold: int, class_id: int, number: int, seed: int) -> Iterator[str]:
    """Makes one recording, writes its slices one by one and yields their rows of the CSV."""
    fs_id = 1_000_000 + 100 * number + 10 * (fold - 1) + class_id  # above the real ones
    draw = np.random.default_rng([seed, fs_id])
    rate, subtype, channels, _ = FORMATS[draw.choice(len(FORMATS), p=[share for *_, share in FORMATS])]
    slices, hop = draw.integers(2, 4), draw.choice([2.0, 4.0])  # adjacent, or overlapping by half
    salience = 1 if draw.random() < FOREGROUND else 2
    sound = _scene(draw, CLASSES[class_id], (slices - 1) * hop + CLIP_SECONDS, salience)
    sound = resample(sound, SYNTHESIS_RATE, rate)
    pan = draw.uniform(-0.3, 0.3)
    gains = np.array([1 + pan, 1 - pan] if channels == 2 else [1.0])  # their mean is the sound itself
    for number_of_slice in range(slices):
        start, samples = int(number_of_slice * hop * rate), int(CLIP_SECONDS * rate)
        if draw.random() > FULL_LENGTH:  # a short one is cut where the sound is loudest
            loudest = start + int(np.abs(sound[start : start + samples]).argmax())
            samples = int(rate * draw.uniform(0.1, 1) * draw.choice([1, 4]))
            start = min(max(start, loudest - rate // 50), len(sound) - samples)
        samples -= samples % ADPCM_BLOCK if subtype == "IMA_ADPCM" else 0
        name = f"{fs_id}-{class_id}-0-{number_of_slice}.wav"
        frames = sound[start : start + samples, None] * gains  # (samples, channels)
        (root / f"audio/fold{fold}" / name).write_bytes(_encode(frames, rate, subtype))
        times = f"{start / rate:.6f},{(start + samples) / rate:.6f}"
        yield f"{name},{fs_id},{times},{salience},{fold},{class_id},{CLASSES[class_id]}"


def _scene(draw: Generator, class_name: str, seconds: float, salience: int) -> np.ndarray:
    """A sound in a room, before a background, at some level: `(samples,)` float32 in [-0.75, 0.75]."""
    sound = waveform(class_name, draw, seconds, SYNTHESIS_RATE)
    time = np.arange(len(sound)) / SYNTHESIS_RATE
    echo = noise(draw, len(sound), SYNTHESIS_RATE, lowpass(4000)) * np.exp(-time / draw.uniform(0.02, 0.1))
    wet = filtered(sound, SYNTHESIS_RATE, lambda _: np.fft.rfft(echo))
    sound = sound / sound.std() + draw.uniform(0.05, 0.4) * wet / wet.std()
    decibels = draw.uniform(18, 35) if salience == 1 else draw.uniform(12, 18)  # above the background
    street = noise(draw, len(sound), SYNTHESIS_RATE, lambda hertz: 1 / np.sqrt(hertz + 50))  # pink
    sound += 10 ** (-decibels / 20) * street
    return (draw.uniform(0.2, 0.75) * sound / np.abs(sound).max()).astype(np.float32)


def _encode(frames: np.ndarray, rate: int, subtype: str) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, frames, rate, format="WAV", subtype=subtype)
    data = bytearray(file.getvalue())
    peak = data.find(b"PEAK", 0, 100)
    if peak >= 0:  # of float files: holds the time of writing, which would make every run differ
        data[peak + 12 : peak + 16] = bytes(4)
    return bytes(data)


def main(argv: Sequence[str] | None = None) -> int:
    parser = CommandParser(prog="urbansound-hf data synthetic", description=TITLE)
    parser.add_argument("folder", type=Path, metavar="DIR", help="where to write; about 0.5 MB a clip")
    parser.add_argument("--clips", type=int, default=4, help="per class and fold (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="another seed, other recordings (default %(default)s)")
    parser.add_argument("--quiet", action="store_true", help="print nothing but the result")
    options = parser.parse_args(argv)
    with quietly(options.quiet):
        root = synthetic_dataset(options.folder, options.clips, options.seed)
    print(f"{100 * options.clips} synthetic clips in {root}")
    return 0


def _since(draw: Generator, time: np.ndarray, shortest: float, longest: float) -> tuple[np.ndarray, np.ndarray]:
    """Seconds since the latest of some events, and its number: one at 0, the others `shortest` to `longest` s apart."""
    onsets = np.cumsum(draw.uniform(shortest, longest, int(time[-1] / shortest) + 1))
    event = np.searchsorted(onsets, time, side="right")
    return time - np.concatenate([[0.0], onsets])[event], event


def _gate(since: np.ndarray, duration: float | np.ndarray, edge: float = 0.02) -> np.ndarray:
    """1 from an event until `duration` seconds after it, with soft edges; else 0."""
    return np.clip(since / edge, 0, 1) * np.clip((duration - since) / edge, 0, 1)


# ---- the ten classes: (draw, time, rate) → (samples,) at any level


def air_conditioner(draw: Generator, time: np.ndarray, rate: int) -> np.ndarray:
    """A broad rush of air over a hum at twice the mains frequency."""
    mains = draw.choice([100.0, 120.0]) * draw.uniform(0.97, 1.0)
    hum = tone(np.full_like(time, mains), draw.uniform(0.3, 1, 8) / np.arange(1, 9), rate)
    rush = noise(draw, len(time), rate, lowpass(draw.uniform(500, 1200)))
    blades = 1 + 0.1 * np.sin(2 * np.pi * draw.uniform(2, 6) * time)
    return rush * blades + draw.uniform(0.3, 0.8) * hum


def car_horn(draw: Generator, time: np.ndarray, rate: int) -> np.ndarray:
    """Two bright notes about a third apart, pressed again and again."""
    since, press = _since(draw, time, 0.6, 1.6)
    low = np.full_like(time, draw.uniform(330, 460))
    partials = np.arange(1, 17) ** -0.4
    notes = tone(low, partials, rate) + tone(low * draw.uniform(1.2, 1.27), partials, rate)
    horn = filtered(notes, rate, resonances(draw.uniform([1800, 2800], [2600, 3800]), 900))
    return horn * _gate(since, draw.uniform(0.25, 1.2, press[-1] + 1)[press])


def children_playing(draw: Generator, time: np.ndarray, rate: int) -> np.ndarray:
    """Four high voices, each with its own vowel, calling in gliding syllables."""
    scene = np.zeros_like(time)
    for distance in (1.0, 0.8, 0.6, 0.5):
        since, syllable = _since(draw, time, 0.2, 0.7)
        pitch = draw.uniform(300, 520, syllable[-1] + 1)[syllable]
        glide = draw.uniform(-1.2, 1.2, syllable[-1] + 1)[syllable]  # octaves a second
        hertz = pitch * 2 ** (glide * np.minimum(since, 0.5)) * (1 + 0.02 * np.sin(2 * np.pi * 5.5 * time))
        voice = tone(hertz, 1 / np.arange(1, 13), rate) * _gate(since, draw.uniform(0.12, 0.5), edge=0.04)
        vowel = draw.uniform([500, 1100, 2900], [1000, 2300, 3600])
        scene += distance * filtered(voice, rate, resonances(vowel, 180))
    return scene


def dog_bark(draw: Generator, time: np.ndarray, rate: int) -> np.ndarray:
    """Short hoarse barks: the pitch leaps up and falls, two formants, breath in the voice, silence between."""
    since, bark = _since(draw, time, 0.35, 1.1)
    duration = draw.uniform(0.13, 0.25)
    arch = np.sin(np.pi * np.clip(since / duration, 0, 1))
    hertz = draw.uniform(280, 520) * draw.uniform(0.9, 1.1, bark[-1] + 1)[bark] * (0.7 + 0.6 * arch)
    throat = tone(hertz, np.arange(1, 17) ** -0.7, rate) + noise(draw, len(time), rate, highpass(300))
    formants = draw.uniform([600, 1300], [950, 1900])
    return filtered(throat * np.sqrt(arch), rate, resonances(formants, 250))


def drilling(draw: Generator, time: np.ndarray, rate: int) -> np.ndarray:
    """A motor's bright buzz that yields and rises with the load, and the hiss of the bit."""
    load = np.mean([np.sin(2 * np.pi * (draw.uniform(0.3, 1.5) * time + draw.random())) for _ in range(3)], axis=0)
    buzz = tone(draw.uniform(170, 300) * (1 - 0.06 * load), np.arange(1, 41) ** -0.2, rate)
    whine = filtered(buzz, rate, resonances(draw.uniform([3000, 4500], [4200, 6500]), 1200))
    return whine / whine.std() + (0.6 + 0.2 * load) * noise(draw, len(time), rate, highpass(4000))


def engine_idling(draw: Generator, time: np.ndarray, rate: int) -> np.ndarray:
    """Low, uneven strokes: each a damped thump of the exhaust; one cylinder of the four is weaker."""
    pace = draw.uniform(15, 28)  # strokes a second
    since, stroke = _since(draw, time, 0.95 / pace, 1.05 / pace)
    thump = np.sin(2 * np.pi * draw.uniform(60, 130) * since) * np.exp(-since * pace)
    exhaust = noise(draw, len(time), rate, lowpass(250)) * np.exp(-since * pace * 1.5)
    return (thump + 0.4 * exhaust) * draw.uniform(0.6, 1, 4)[stroke % 4]


def gun_shot(draw: Generator, time: np.ndarray, rate: int) -> np.ndarray:
    """A crack, a boom, and the long decay of the street; then silence until the next one."""
    since, shot = _since(draw, time, 1.2, 3.0)
    crack = noise(draw, len(time), rate, highpass(200)) * np.exp(-since / draw.uniform(0.01, 0.03))
    boom = np.sin(2 * np.pi * draw.uniform(50, 90) * since) * np.exp(-since / 0.08)
    street = noise(draw, len(time), rate, lowpass(1500)) * np.exp(-since / draw.uniform(0.15, 0.35))
    return (crack + 0.6 * boom + 0.3 * street) * draw.uniform(0.7, 1, shot[-1] + 1)[shot]


def jackhammer(draw: Generator, time: np.ndarray, rate: int) -> np.ndarray:
    """10 to 22 hard impacts a second; the chisel rings, the stone cracks."""
    pace = draw.uniform(10, 22)
    since, impact = _since(draw, time, 0.97 / pace, 1.03 / pace)
    modes = draw.uniform([900, 1700, 2600], [1500, 2400, 3600])
    ring = np.sin(2 * np.pi * np.outer(modes, since)).sum(axis=0) * np.exp(-since / draw.uniform(0.008, 0.016))
    stone = noise(draw, len(time), rate, highpass(800)) * np.exp(-since / draw.uniform(0.006, 0.015))
    return (ring + stone) * draw.uniform(0.7, 1, impact[-1] + 1)[impact]


def siren(draw: Generator, time: np.ndarray, rate: int) -> np.ndarray:
    """One nearly pure note that sweeps up and down: a slow wail or a fast yelp."""
    low, high = draw.uniform([500, 1100], [750, 1600])
    sweep = 0.5 - 0.5 * np.cos(2 * np.pi * (draw.uniform(0.3, 3.0) * time + draw.random()))
    return tone(low * (high / low) ** sweep, np.array([1, 0.35, 0.2, 0.08]), rate)


def street_music(draw: Generator, time: np.ndarray, rate: int) -> np.ndarray:
    """Plucked triads I–V–vi–IV over a bass, a drum on the beat and a shaker between."""
    beat_seconds = 60 / draw.uniform(90, 140)
    since, beat = _since(draw, time, beat_seconds, beat_seconds)
    tonic = draw.uniform(220, 340)
    chords = np.array([[0, 4, 7], [-5, -1, 2], [-3, 0, 4], [-7, -3, 0]])  # semitones from the tonic
    pluck, partials = np.exp(-since / 0.5), np.arange(1, 13) ** -0.5
    notes = [*chords[beat // 2 % 4].T, chords[beat // 2 % 4, 0] - 12]
    harmony = sum(tone(tonic * 2 ** (note / 12), partials, rate) for note in notes) * pluck
    drum = np.sin(2 * np.pi * 60 * since) * np.exp(-since / 0.08)
    shaker = noise(draw, len(time), rate, highpass(5000)) * np.exp(-np.abs(since - beat_seconds / 2) / 0.015)
    return harmony + 1.5 * drum + 0.8 * shaker


SOUNDS = {sound.__name__: sound for sound in (
    air_conditioner, car_horn, children_playing, dog_bark, drilling,
    engine_idling, gun_shot, jackhammer, siren, street_music,
)}  # fmt: skip


def waveform(class_name: str, generator: Generator, seconds: float, sampling_rate: int) -> np.ndarray:
    """A clean sound of one of `CLASSES`, with parameters drawn from `generator`: `(samples,)` float32, peak 1."""
    time = np.arange(round(seconds * sampling_rate)) / sampling_rate
    sound = SOUNDS[class_name](generator, time, sampling_rate)
    return (sound / np.abs(sound).max()).astype(np.float32)
