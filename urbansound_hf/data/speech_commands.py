"""Speech Commands v0.02: 105,829 spoken words of one second in 35 classes, split by a hash of the speaker (Warden)."""

from __future__ import annotations

from pathlib import Path

from urbansound_hf.audio.files import find_audio_files
from urbansound_hf.data.builder import Row
from urbansound_hf.data.known import KnownDataset, Published
from urbansound_hf.data.segments import pieces

LISTS = {"validation_list.txt": "validation", "testing_list.txt": "test"}
NOISE = "_background_noise_"
CLIP_SECONDS = 1.0


def read(
    root: Path, variant: str, allow_missing_files: bool, background_class: str | None
) -> tuple[list[Row], list[str]]:
    """The words with their part, and the speaker as group.

    The recordings in `_background_noise_` are left out, or cut into clips of a second of the background class: the
    last recording by name for testing, the one before for validation, the others for training.
    """
    found = find_audio_files(root)
    part_of = {name: part for file, part in LISTS.items() for name in (root / file).read_text(encoding="utf-8").split()}
    rows: list[Row] = []
    noise = []
    for name, path in zip(found.names(found.sounds), found.sounds, strict=True):
        label, _, file = name.rpartition("/")
        if label == NOISE:
            noise.append(path)
        elif label:
            speaker = file.partition("_nohash_")[0]
            part = part_of.get(name, "train")
            rows.append({"source": str(path), "path": name, "label": label, "group": speaker, "split": part})
    for number, path in enumerate(reversed(noise if background_class else [])):
        row = {"source": str(path), "path": f"{NOISE}/{path.name}", "label": background_class, "group": path.name}
        part = ("test", "validation", "train")[min(number, 2)]
        rows += [row | {"split": part, "segment": times} for times in pieces(path, CLIP_SECONDS)]
    left = f"{NOISE} is left out; --background_class silence makes a class of it"
    return rows, [left] * bool(noise and not background_class)


DATASET = KnownDataset(
    name="Speech Commands v0.02",
    markers=tuple(LISTS),
    read=read,
    protocol="accuracy on the words of testing_list.txt; selected on those of validation_list.txt",
    licence="CC BY 4.0",
    citation="P. Warden: Speech Commands: A Dataset for Limited-Vocabulary Speech Recognition. arXiv:1804.03209, 2018",
    homepage="https://www.tensorflow.org/datasets/catalog/speech_commands",
    published={"": (Published("AST, 35 classes", "98.1", "Gong et al. 2021, arXiv:2104.01778"),)},
)
