"""FSD50K: 51,197 Freesound clips with several of 200 AudioSet classes each (Fonseca et al., 2022)."""

from __future__ import annotations

from pathlib import Path

from urbansound_hf.audio.files import find_audio_files
from urbansound_hf.data.builder import Row
from urbansound_hf.data.columns import read_csv, split_name
from urbansound_hf.data.folder import ListedFiles
from urbansound_hf.data.known import KnownDataset, Published
from urbansound_hf.errors import UserError
from urbansound_hf.text import first_ten

TABLES = {"dev": "FSD50K.ground_truth/dev.csv", "eval": "FSD50K.ground_truth/eval.csv"}
"""fname, labels (separated by commas), mids; that of the development part has `split`: train or val."""


def read(
    root: Path, variant: str, allow_missing_files: bool, background_class: str | None
) -> tuple[list[Row], list[str]]:
    """The clips with their lists of labels, in the parts train, validation (val) and test (eval)."""
    rows: list[Row] = []
    missing = []
    for part, table in TABLES.items():
        records = read_csv(root / table).records
        files = ListedFiles(find_audio_files(root / f"FSD50K.{part}_audio"), [cells["fname"] for _, cells in records])
        for line, cells in records:
            where = f"{root / table}, line {line}"
            source = files.find(cells["fname"], where)
            if source is None:
                missing.append(f"{part}/{cells['fname']}")
                continue
            rows.append({"source": str(source), "path": f"{part}/{source.name}", "label": cells["labels"].split(","),
                         "split": split_name(cells.get("split", part), where)})  # fmt: skip
    if missing and not (allow_missing_files and rows):
        fix = "unpack all parts, or do without them: --allow_missing_files"
        raise UserError(f"{len(missing):,} listed clips have no file: {first_ten(missing)}", str(root), fix)
    return rows, [f"{len(missing):,} listed clips have no file and are left out"] * bool(missing)


DATASET = KnownDataset(
    name="FSD50K",
    markers=tuple(TABLES.values()),
    read=read,
    protocol="mean average precision on the eval part; trained on the train part, selected on the val part",
    licence="CC BY 4.0 (the collection; each clip has its own Creative Commons licence)",
    citation="E. Fonseca et al.: FSD50K: an open dataset of human-labeled sound events. IEEE/ACM TASLP 30, 2022",
    homepage="https://zenodo.org/records/4060432",
    published={"": (Published("PSLA", "mAP 0.567", "Gong et al. 2021, arXiv:2102.01243"),)},
)
