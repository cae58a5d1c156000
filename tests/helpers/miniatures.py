"""Miniatures of public data sets: their real file names and columns, with short generated sounds."""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np
import soundfile

from urbansound_hf.data.known import ESC10


def _sound(path: Path, seconds: float = 0.5) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(zlib.crc32(path.name.encode())).normal(size=int(16_000 * seconds)) / 10
    soundfile.write(path, noise, 16_000)


def esc50(root: Path) -> Path:
    """Five folds of twelve classes, two of which ESC-10 lacks; as the archive of GitHub unpacks."""
    lines = ["filename,fold,target,category,esc10,src_file,take"]
    classes = ["airplane", *sorted(ESC10), "wind"]
    for target, category in enumerate(classes):
        for fold in range(1, 6):
            source = 100_000 + 10 * target + fold
            name = f"{fold}-{source}-A-{target}.wav"
            _sound(root / "ESC-50-master" / "audio" / name)
            lines.append(f"{name},{fold},{target},{category},{category in ESC10},{source},A")
    meta = root / "ESC-50-master" / "meta"
    meta.mkdir()
    (meta / "esc50.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return root


def speech_commands(root: Path) -> Path:
    """Two words of ten speakers each, of which one validates and one tests; and the background noise."""
    lists: dict[str, list[str]] = {"validation_list.txt": [], "testing_list.txt": []}
    for word in ("backward", "yes"):
        for speaker in range(10):
            name = f"{word}/{speaker:08x}_nohash_0.wav"
            _sound(root / name)
            if speaker < 2:
                list(lists.values())[speaker].append(name)
    for name in ("doing_the_dishes", "pink_noise", "running_tap"):
        _sound(root / "_background_noise_" / f"{name}.wav", 2.5)
    for name, lines in lists.items():
        (root / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return root


def fsd50k(root: Path) -> Path:
    """Two clips each for training, validation and evaluation."""
    tables = {"dev": ["fname,labels,mids,split"], "eval": ["fname,labels,mids"]}
    for number, (part, split) in enumerate([("dev", "train"), ("dev", "val"), ("eval", "")] * 2):
        fname = 64_760 + number
        _sound(root / f"FSD50K.{part}_audio" / f"{fname}.wav")
        labels = (
            ('"Electric_guitar,Guitar,Music"', '"/m/02sgy,/m/0342h,/m/04rlf"')
            if number % 2 == 0
            else ("Bark", "/m/05tny_")
        )
        cells = [str(fname), *labels, *[split] * bool(split)]
        tables[part].append(",".join(cells))
    (root / "FSD50K.ground_truth").mkdir()
    for part, lines in tables.items():
        (root / "FSD50K.ground_truth" / f"{part}.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return root
