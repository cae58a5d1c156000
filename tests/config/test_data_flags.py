"""Flags that the chosen data set does not use: refused, or dropped where another data set replaces the config's."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import TINY
from urbansound_hf.config.arguments import RunConfig
from urbansound_hf.config.parse import parse_run_config
from urbansound_hf.errors import UserError, UserErrors

HUB = ["--dataset_config", "v1", "--dataset_revision", "main"]
COLUMNS = ["--audio_column", "sound", "--label_column", "word"]


@pytest.fixture
def folder(tmp_path) -> Path:
    """A folder of two classes."""
    for name in ("bark", "horn"):
        (tmp_path / "sounds" / name).mkdir(parents=True)
        (tmp_path / "sounds" / name / "1.wav").touch()
    return tmp_path / "sounds"


@pytest.fixture
def parse(tmp_path, folder, synthetic_root):
    """Parses flags over a config with further lines; FOLDER and ROOT stand for a folder and for UrbanSound8K."""

    def run(flags: list[str], *lines: str) -> RunConfig:
        (tmp_path / "tiny.yaml").write_text(TINY + "\n".join(lines) + "\n", encoding="utf-8")
        places = {"FOLDER": str(folder), "ROOT": str(synthetic_root)}
        return parse_run_config([places.get(flag, flag) for flag in flags], tmp_path / "tiny.yaml")

    return run


@pytest.mark.parametrize(
    ("dataset", "flags"),
    [("urbansound8k", HUB), ("urbansound8k", COLUMNS), ("synthetic", HUB), ("synthetic", COLUMNS),
     ("synthetic", ["--data_dir", "data"]), ("synthetic", ["--allow_missing_files"]), ("synthetic", ["--download"]),
     ("FOLDER", HUB), ("FOLDER", ["--data_dir", "data"]), ("FOLDER", ["--download"]), ("ROOT", COLUMNS), ("ROOT", HUB),
     ("ROOT", ["--data_dir", "data"]), ("owner/name", ["--data_dir", "data"]),
     ("owner/name", ["--allow_missing_files"])],
    ids=str,
)  # fmt: skip
def test_a_flag_of_another_kind_of_data_is_refused(parse, dataset, flags):
    with pytest.raises(UserErrors) as caught:
        parse(["--dataset", dataset, *flags])
    names = [flag for flag in flags if flag.startswith("--")]
    assert len(caught.value.problems) == len(names)
    for name, problem in zip(names, caught.value.problems, strict=True):
        assert f"`{name[2:]}` belongs to " in problem.what and f"command line, {name}" in problem.where
        assert problem.fix == f"leave out {name[2:]}"


@pytest.mark.parametrize(
    ("dataset", "flags"),
    [("urbansound8k", ["--data_dir", "data", "--allow_missing_files", "--download"]), ("FOLDER", COLUMNS),
     ("FOLDER", ["--allow_missing_files"]), ("ROOT", ["--allow_missing_files"]), ("owner/name", [*HUB, *COLUMNS]),
     ("synthetic", ["--allow_missing_files", "false"])],
    ids=str,
)  # fmt: skip
def test_a_flag_that_the_data_use_is_taken(parse, dataset, flags):
    assert parse(["--dataset", dataset, *flags]).data.dataset


def test_a_config_that_contradicts_itself_is_refused(parse):
    with pytest.raises(UserError, match="`data_dir` belongs to UrbanSound8K"):
        parse([], "dataset: synthetic", "data_dir: data")


def test_flags_of_a_config_are_dropped_where_the_command_line_names_other_data(parse, capsys):
    lines = ["dataset: owner/name", "dataset_config: v1", "dataset_revision: main", "audio_column: sound"]
    data = parse(["--dataset", "synthetic"], *lines).data
    assert (data.dataset_config, data.dataset_revision, data.audio_column) == (None, None, None)
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("note: ")]
    assert line.endswith("--dataset synthetic does not use it: dataset_config, dataset_revision, audio_column")
    data = parse(["--dataset", "FOLDER"], *lines).data
    assert (data.dataset_config, data.audio_column) == (None, "sound")
    assert parse([], *lines).data.dataset_revision == "main" and "note" not in capsys.readouterr().err.split("\n", 1)[1]


def test_a_flag_of_the_command_line_is_refused_also_there(parse):
    with pytest.raises(UserError, match="`label_column` belongs to"):
        parse(["--dataset", "synthetic", "--label_column", "word"], "dataset: owner/name", "audio_column: sound")
