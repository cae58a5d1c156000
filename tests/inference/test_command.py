"""`python infer.py`: what it reads, what it writes, and with which exit code it leaves."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile

from tests.conftest import ROOT
from tests.helpers import tiny
from urbansound_hf.data.urbansound8k import CLASSES
from urbansound_hf.inference.classifier import SoundClassifier
from urbansound_hf.inference.formats import BAR_WIDTH, FORMATS, WriteOptions, bar
from urbansound_hf.inference.inputs import find_sounds, newest_run
from urbansound_hf.inference.output import Classification, Prediction
from urbansound_hf.inference.results import write_results

RATE = 16_000


def json_lines(text: str) -> list[dict]:
    return [json.loads(line) for line in text.splitlines()]


def test_json_lines_have_the_documented_keys(sounds, run, model):
    code, out, _ = run("a.wav", "broken.wav", "deep", "--format", "jsonl", "--top_k", "3")
    first, broken, *rest = json_lines(out)
    assert code == 1
    assert list(first) == ["path", "start", "end", "label", "score", "top", "level_db", "silence"]
    assert (first["path"], first["start"], first["end"]) == ("a.wav", 0.0, 0.5)
    assert len(first["top"]) == 3 and first["top"][0] == {"label": first["label"], "score": first["score"]}
    assert [answer["score"] for answer in first["top"]] == sorted((a["score"] for a in first["top"]), reverse=True)
    assert list(broken) == ["path", "error"] and broken["path"] == "broken.wav" and "not a sound" in broken["error"]
    assert [record["path"] for record in rest] == ["deep/c.WAV", "deep/er/b.flac"]
    waveform = soundfile.read("a.wav", dtype="float32")[0]
    scores = SoundClassifier.from_pretrained(model, device="cpu").probabilities([waveform])[0]
    assert first["label"] == CLASSES[scores.argmax()] and first["score"] == pytest.approx(scores.max(), abs=1e-5)


def test_a_long_recording_ends_with_its_summary(sounds, run):
    code, out, _ = run("long.wav", "--format", "jsonl", "--hop_seconds", "0.75", "--top_k", "10")
    *windows, summary = json_lines(out)
    assert code == 0
    assert [(w["start"], w["end"]) for w in windows] == [(0, 1), (0.75, 1.75), (1.5, 2.5)]
    assert (summary["start"], summary["end"], summary["windows"]) == (0, 2.5, 3)
    assert not any("windows" in window for window in windows)
    mean = np.mean([next(a["score"] for a in w["top"] if a["label"] == summary["label"]) for w in windows])
    assert summary["score"] == pytest.approx(mean, abs=1e-5)


def test_csv_holds_the_same_as_json_lines(sounds, run):
    arguments = ("a.wav", "gone.wav", "long.wav", "--top_k", "2", "--format")
    (code, table, _), (_, lines, _) = run(*arguments, "csv"), run(*arguments, "jsonl")
    rows, records = list(csv.DictReader(io.StringIO(table))), json_lines(lines)
    assert code == 1 and len(rows) == len(records)
    both = ["level_db", "silence", "windows", "error"]
    assert list(rows[0]) == ["path", "start", "end", "label", "score", "label_2", "score_2", *both]
    for row, record in zip(rows, records, strict=True):
        for column in ("path", "start", "end", "label", "score", *both):
            assert row[column] == str(record.get(column, ""))
        if "top" in record:
            assert (row["label_2"], float(row["score_2"])) == tuple(record["top"][1].values())
    assert rows[1]["error"] == "does not exist"


def test_the_table_is_for_eyes_and_its_errors_go_to_standard_error(sounds, run):
    code, out, err = run("a.wav", "broken.wav", "long.wav", "--top_k", "2")
    assert code == 1 and "broken.wav: not a sound" in err and "broken.wav" not in out
    path, best, second, long, *_ = out.splitlines()
    assert (path, long) == ("a.wav", "long.wav")
    assert float(best.split()[-1]) >= float(second.split()[-1])
    assert best.split()[0] in CLASSES and set(best.split()[1]) <= set("█▏▎▍▌▋▊▉")
    assert "  mean of 4 windows\n" in out


@pytest.mark.parametrize(
    ("arguments", "what"),
    [(["gone.wav"], "does not exist"), (["broken.wav"], "not a sound"), (["*.mp3"], "*.mp3: matches no file"),
     (["empty"], "empty: holds no sound"), ([], "required: INPUT"), (["a.wav", "--top_k", "0"], "at least 1"),
     (["a.wav", "--format", "xml"], "invalid choice: 'xml'"), (["a.wav", "--hop_seconds", "2"], "not cover"),
     (["a.wav", "--output", "gone/x.csv"], "a folder that exists"), (["a.wav", "--windows", "1"], "unrecognized"),
     (["a.wav", "--smooth", "2"], "must be odd"), (["a.wav", "--resume"], "need --output"),
     (["a.wav", "--format", "jsonl", "--min_score", "0.5"], "add --events")],
)  # fmt: skip
def test_nothing_readable_or_wrong_usage_is_exit_code_2(sounds, run, arguments, what):
    Path("empty").mkdir()
    code, out, err = run(*arguments)
    assert code == 2 and what in err and "Traceback" not in err and out == ""


def test_output_appears_complete_or_not_at_all(sounds, run, monkeypatch):
    before = set(Path().iterdir())
    code, out, err = run("a.wav", "gone.wav", "--output", "scores.csv")
    assert (code, out) == (1, "") and err == "scores.csv: 1 classified, 1 could not be read\n"
    rows = csv.DictReader(Path("scores.csv").read_text(encoding="utf-8").splitlines())
    assert [row["error"] for row in rows] == ["", "does not exist"]
    monkeypatch.setattr(SoundClassifier, "_forward", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    assert run("a.wav", "--output", "cut.jsonl")[0] == 130
    assert set(Path().iterdir()) - before == {Path("scores.csv")}


def test_inputs_are_files_folders_globs_and_standard_input(sounds, monkeypatch):
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(b"RIFF")))
    Path("odd[1].wav").write_bytes(Path("a.wav").read_bytes())
    found, problems = find_sounds(["-", "d*p/**/*.flac", "deep", "odd[1].wav", "?.wav", "gone.wav"])
    assert (found[0].name, found[0].read()) == ("-", b"RIFF")
    names = ["deep/er/b.flac", "deep/c.WAV", "deep/er/b.flac", "odd[1].wav", "a.wav", "gone.wav"]
    assert [str(sound) for sound in found[1:]] == names and problems == []
    (_, (problem,)) = find_sounds(["a.wav", "x*"])
    assert (problem.what, problem.where) == ("matches no file", "x*")


def test_the_default_model_is_the_newest_finished_run(sounds, run):
    code, _, err = run("a.wav", model=None)
    assert code == 2 and "no finished run was found" in err and "outputs/" in err and "--model" in err
    for age, name in enumerate(["yamnet/fold_10", "old"]):
        folder = tiny.save("yamnet", Path("outputs") / name)
        (folder / "run.json").write_text("{}", encoding="utf-8")
        os.utime(folder / "run.json", (1e9 - age, 1e9 - age))
    tiny.save("yamnet", Path("outputs/unfinished"))
    code, out, err = run("a.wav", "--device", "cpu", model=None)
    assert code == 0 and out.startswith("a.wav\n") and err == "model: outputs/yamnet/fold_10\n"
    Path("outputs/yamnet/fold_10/config.json").unlink()  # a cross-validation has a receipt but no model of its own
    assert newest_run() == Path("outputs/old")


def test_a_table_joins_neighbouring_windows_of_one_label(capsys):
    def window(start, label, score):
        return Prediction(start, start + 4.0, ((label, score),))

    windows = (window(0, "siren", 0.5), window(4, "siren", 0.7), window(8, "dog_bark", 1.0))
    whole = Prediction(0, 12.0, (("siren", 0.4), ("dog_bark", 0.33)))
    assert write_results([Classification("street.wav", windows, whole)], "table", WriteOptions(2), sys.stdout) == 0
    assert capsys.readouterr().out.splitlines() == [
        "street.wav",
        "   0.0– 8.0 s  siren     ██████     0.60",
        "   8.0–12.0 s  dog_bark  ██████████ 1.00",
        "  mean of 3 windows",
        "  siren     ████       0.40",
        "  dog_bark  ███▎       0.33",
    ]


@pytest.mark.parametrize(
    ("score", "blocks", "ascii"),
    [(0, "", ""), (0.0125, "▏", ""), (0.5, "█" * 5, "#" * 5), (0.99, "█" * 9 + "▉", "#" * 10), (7, "█" * 10, "#" * 10)],
)
def test_bars_count_in_eighths(score, blocks, ascii):
    assert (bar(score), bar(score, blocks=False)) == (blocks, ascii) and len(blocks) <= BAR_WIDTH


def test_the_command_line_end_to_end(sounds, model):
    """In a process of its own: a pipe in, a terminal without UTF-8 out, our own family without remote code."""
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONPATH": ""}
    command = [sys.executable, str(ROOT / "infer.py"), "-", "long.wav", "müll.wav", "--model", str(model)]
    done = subprocess.run(command, input=Path("a.wav").read_bytes(), capture_output=True, env=environment)
    out, err = done.stdout.decode("ascii"), done.stderr.decode("ascii")
    assert done.returncode == 1, err
    assert out.startswith("-\n  ") and "#" in out and "\nlong.wav\n  0.0-" in out
    assert err == "m\\xfcll.wav: does not exist\n"


def test_what_was_unusual_in_a_sound_is_said_on_standard_error(run, tmp_path):
    noise = np.random.default_rng(0).uniform(-0.9, 0.9, RATE // 2)
    soundfile.write(tmp_path / "scaled.wav", noise * 32767, RATE, subtype="FLOAT")
    soundfile.write(tmp_path / "fine.wav", noise, RATE, subtype="FLOAT")
    (tmp_path / "joined.wav").write_bytes(2 * (tmp_path / "fine.wav").read_bytes())
    code, out, err = run(str(tmp_path), "--format", "jsonl")
    assert code == 0 and len(json_lines(out)) == 3
    assert f"{tmp_path / 'scaled.wav'}: 100% of its samples lie beyond full scale (peak 29" in err
    assert f"{tmp_path / 'joined.wav'}: it holds 2 sounds joined end to end; they are read as one" in err
    assert "fine.wav" not in err


def test_a_format_is_one_entry(run, sounds, monkeypatch):
    """What `--format` offers, what the suffix of `--output` chooses and what is written all follow from it."""

    def lines(sounds, stream, options):
        stream.writelines(f"{sound[0]['path']} {sound[0]['label']} of {options.top_k}\n" for sound in sounds)

    monkeypatch.setitem(FORMATS, "lines", lines)
    code, named, _ = run("a.wav", "--format", "lines", "--top_k", "3")
    assert code == 0 and re.fullmatch(r"a.wav \w+ of 3\n", named)
    assert run("a.wav", "--output", "out.lines", "--top_k", "3")[0] == 0
    assert Path("out.lines").read_text(encoding="utf-8") == named
    assert "{table,jsonl,csv,parquet,audacity,raven,lines}" in run("--help", model=None)[1]


SERVE = """
import sys
from transformers import AutoFeatureExtractor, AutoModelForAudioClassification, WhisperForAudioClassification
before = set(sys.modules)
from urbansound_hf.cli import infer
assert infer(sys.argv[1:]) == 0
print(*sorted(set(sys.modules) - before), sep=",", file=sys.stderr)
print(*sorted(set(sys.modules)), sep=",", file=sys.stderr)
"""


def test_serving_imports_nothing_of_training(sounds, tmp_path):
    """In a fresh process; Transformers itself imports what it wants, our own code adds little."""
    model = tiny.save("whisper", tmp_path / "model", clip_seconds=1.0)
    arguments = ["a.wav", "--model", str(model), "--device", "cpu", "--quiet"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", SERVE, *arguments], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    ours, everything = ({*line.split(",")} for line in done.stderr.splitlines()[-2:])
    added = {name.partition(".")[0] for name in ours}
    assert "urbansound_hf.inference.classifier" in ours and "torch" in everything
    assert not added & {"accelerate", "evaluate", "datasets", "sklearn", "pandas", "peft", "optuna", "matplotlib"}
    assert not {"datasets", "evaluate", "sklearn", "pandas"} & everything
    packages = {name.split(".")[1] for name in ours if name.startswith("urbansound_hf.")}
    assert not packages & {"config", "data", "training", "evaluation", "reports", "plots", "hub", "app"}


def test_the_profile_names_the_stages_and_leaves_a_trace(sounds, run):
    code, plain, _ = run("a.wav", "deep", "--format", "csv")
    profiled = run("a.wav", "deep", "--format", "csv", "--profile")
    assert (code, profiled[:2]) == (0, (0, plain)) and "| stage" in profiled[2]
    events = json.loads(Path("trace.json").read_text(encoding="utf-8"))["traceEvents"]
    names = {"load", "extract", "wait", "forward", "write", "decode (in threads)"}
    assert {event["name"] for event in events} == names and all(f"| {name} " in profiled[2] for name in names)


@pytest.mark.parametrize("amx", [True, False])
def test_bfloat16_on_a_cpu_that_is_slow_at_it_is_said(amx, sounds, run, monkeypatch):
    monkeypatch.setattr("torch.cpu._is_amx_tile_supported", lambda: amx)
    code, _, err = run("a.wav", "--dtype", "bfloat16")
    assert code == 0 and ("has no AMX: bfloat16 is slower than float32 here" in err) == (not amx)
