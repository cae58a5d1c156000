"""Shards: their columns, their sounds as they were on the disk, archives and Parquet alike, and what is refused."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.data.test_loading import wav
from urbansound_hf.data.__main__ import main as data_command
from urbansound_hf.data.loading import load_sounds
from urbansound_hf.data.shards import find_shards
from urbansound_hf.errors import UserError

CLIPS = {f"{name}{number}": (name, wav(22_050, 0.1 + number / 10)) for name in ("owl", "wren") for number in range(6)}


def archive(path: Path, clips: dict) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for stem, (label, sound) in clips.items():
            beside = {"json": json.dumps({"label": label, "group": stem}).encode()}
            for suffix, content in ({"wav": sound} | (beside if stem.startswith("owl") else {"cls": b"wren"})).items():
                member = tarfile.TarInfo(f"sounds/{stem}.{suffix}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    return path


def test_archives_give_their_sounds_labels_and_parts(tmp_path):
    stems = list(CLIPS)
    for part, chosen in {"train": stems[::2], "val": stems[1::4], "test": stems[3::4]}.items():
        archive(tmp_path / part / "000.tar", {stem: CLIPS[stem] for stem in chosen})
    sounds = load_sounds(str(tmp_path), streaming=True)
    assert sounds.labels == ["owl", "wren"] and len(sounds.dataset) == 12
    for row in sounds.dataset:
        stem = Path(row["audio"]["path"]).stem
        label, sound = CLIPS[stem]
        assert row["seconds"] == pytest.approx(0.1 + int(stem[-1]) / 10)
        assert (sounds.labels[row["label"]], row["audio"]["bytes"]) == (label, sound)
    parts = sounds.dataset["split"][:]
    assert [parts.count(name) for name in ("train", "validation", "test")] == [6, 3, 3]
    address = f"file://{tmp_path}/train/{{000..000}}.tar"
    assert find_shards(address) == [f"file://{tmp_path}/train/000.tar"]
    assert load_sounds(address, streaming=True).dataset[0]["audio"]["bytes"] == CLIPS[stems[0]][1]


def test_a_folder_of_classes_as_shards_and_back(tmp_path, capsys):
    for stem, (label, sound) in CLIPS.items():
        (tmp_path / "data" / label).mkdir(parents=True, exist_ok=True)
        (tmp_path / "data" / label / f"{stem}.wav").write_bytes(sound)
    argv = ["shard", str(tmp_path / "data"), str(tmp_path / "shards"), "--clips_per_shard", "5", "--quiet"]
    assert data_command(argv) == 0
    assert "data: 12 clips in 3 shards" in capsys.readouterr().out
    (tmp_path / "map.yaml").write_text("owl: night bird", encoding="utf-8")
    sounds = load_sounds(str(tmp_path / "shards"), streaming=True, label_map=str(tmp_path / "map.yaml"))
    assert sounds.labels == ["night bird", "wren"] and sorted(sounds.dataset["label"]) == [0] * 6 + [1] * 6
    found = {row["audio"]["path"]: row["audio"]["bytes"] for row in sounds.dataset}
    assert found == {f"{label}/{stem}.wav": sound for stem, (label, sound) in CLIPS.items()}
    assert list(found) != sorted(found), "the clips are mixed"
    assert sorted(path["path"] for path in load_sounds(str(tmp_path / "shards")).dataset["audio"]) == sorted(found)
    with pytest.raises(UserError, match="holds shards already"):
        data_command(argv)
    (tmp_path / "shards/.train-00001-of-00003.77.parquet").write_bytes(b"of a process that was killed")
    (tmp_path / "shards/train-00001-of-00003.parquet").unlink()
    with pytest.raises(UserError, match=r"all shards of a set are needed, found 2 of the 3 of .*shards/train"):
        load_sounds(str(tmp_path / "shards"), streaming=True)
    with pytest.raises(UserError, match=r"reads shards \(.parquet, .tar\), found none.*\n.*\n.*data shard SOURCE DIR"):
        load_sounds(str(tmp_path / "data"), streaming=True)


def test_shards_without_their_sounds_are_refused(tmp_path):
    names = pa.array(
        [{"bytes": None, "path": f"{n}.wav"} for n in range(4)], pa.struct({"bytes": pa.binary(), "path": pa.string()})
    )
    pq.write_table(pa.table({"audio": names, "label": ["a", "b"] * 2, "seconds": [1.0] * 4}), tmp_path / "0.parquet")
    with pytest.raises(UserError, match=r"the shard holds the name 0\.wav, not the sound"):
        load_sounds(str(tmp_path), streaming=True).dataset[0]
    (tmp_path / "0.parquet").write_bytes(b"PAR1 cut")
    with pytest.raises(UserError, match="the shards cannot be read"):
        load_sounds(str(tmp_path), streaming=True)
