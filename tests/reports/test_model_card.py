"""Cards are read as the Hub reads them, and as people do: every number follows its source."""

from __future__ import annotations

import ast
import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import yaml
from huggingface_hub import DatasetCard, ModelCard, ModelCardData
from huggingface_hub.repocard_data import eval_results_to_model_index

from tests.conftest import ROOT, TINY
from tests.helpers import tiny
from tests.helpers.runs import write_run as write_tiny_run
from urbansound_hf.audio.io import load_audio
from urbansound_hf.config.arguments import RunConfig
from urbansound_hf.config.parse import parse_run_config
from urbansound_hf.data import urbansound8k
from urbansound_hf.data.known import KnownDataset, known_dataset
from urbansound_hf.evaluation.receipts import INCIDENTAL, environment
from urbansound_hf.evaluation.runs import Run, read_run, write_json
from urbansound_hf.inference.classifier import SoundClassifier
from urbansound_hf.layout import BEGUN
from urbansound_hf.reports.model_card import CC_BY_NC, data_card, packages, render_card, weaknesses
from urbansound_hf.reports.run_report import write_cross_validation, write_run
from urbansound_hf.training.experiment import is_hub_id, recorded_facts

pytestmark = pytest.mark.usefixtures("plain_reports")

DEFAULT_CONFIG = ROOT / "configs" / "wav2vec2_base.yaml"
LEAKS = {
    "train_clips": 500, "test_clips": 60, "shared_recording_clips": 7, "time_overlap_clips": 2, "shared_recordings": [],
    "exact_duplicates": 1, "near_duplicates": 3, "validation": {"clips": 60, "shared_recording_clips": 5},
}  # fmt: skip


def resolved(folder: Path, *argv: str) -> RunConfig:
    """The config of a tiny run with these flags."""
    (folder / "tiny.yaml").write_text(TINY, encoding="utf-8")
    return parse_run_config(argv, folder / "tiny.yaml")


def receipt_of(config: RunConfig, data_name: str = "UrbanSound8K", known: KnownDataset | None = None) -> dict:
    """The receipt that training writes for this config and data of this name."""
    sounds = SimpleNamespace(name=data_name, fingerprint="d67a15a0819bdd7e", dataset=range(680), known=known)
    receipt = {
        "config": config.as_dict(),
        **recorded_facts(config, sounds),
        "processes": 1,
        "gpus": [],
        "environment": environment() | {"code": {"commit": "c0ffee", "dirty": False, "source": "e0be15b4"}},
    }
    return json.loads(json.dumps(receipt, default=str))


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A finished run of fold 3: a tiny YAMNet, its report, its receipt."""
    root = tmp_path_factory.mktemp("runs")
    facts = {"leaks": LEAKS, "parameters": 5462, "trained_parameters": 4321, "checkpoint": "best"}
    folder = write_tiny_run(root / "fold3", 3, notes=["subset: 180 clips"], **facts)
    tiny.save("yamnet", folder, clip_seconds=4.0)
    data = ["--test_fold", "3", "--output_dir", str(root), "--data_dir", str(root / "data")]
    write_json(folder / "run.json", receipt_of(resolved(root, *data)))
    write_run(folder)
    return folder


@pytest.fixture
def run(made, tmp_path) -> Path:
    """A copy that a test may change."""
    return Path(shutil.copytree(made, tmp_path / "fold3"))


def change(folder: Path, file: str, place: str, value: object) -> str:
    """Changes one value of a JSON file (`per_class.siren.f1`); returns the card that follows from it."""
    content = json.loads((folder / file).read_text(encoding="utf-8"))
    *way, last = place.split(".")
    at = content
    for key in way:
        at = at[int(key) if isinstance(at, list) else key]
    at[int(last) if isinstance(at, list) else last] = value
    (folder / file).write_text(json.dumps(content), encoding="utf-8")
    return render_card(folder)


CONDITION = {"accuracy": 0.004, "accuracy_interval": [0.0, 0.01], "clips": 9, "recordings": 9}
FOLLOWS = [
    ("report.json", "accuracy", 0.4321, "]** (0.432), macro-F1"),
    ("report.json", "accuracy", 0.4321, "value: 0.4321"),
    ("report.json", "accuracy_interval", [0.11, 0.99], "recordings: accuracy **[0.11, 0.99]** ("),
    ("report.json", "macro_f1", 0.3217, "]** (0.322), loss"),
    ("report.json", "macro_f1", 0.3217, "value: 0.3217"),
    ("report.json", "macro_f1_interval", [0.12, 0.98], "macro-F1 **[0.12, 0.98]** ("),
    ("report.json", "clips", 1234, "Tested on 1,234 clips of"),
    ("report.json", "recordings", 97, "clips of 97 recordings"),
    ("report.json", "ece", 0.4567, "(expected calibration error 0.457)"),
    ("report.json", "scope", "10 of 10 folds", "UrbanSound8K (680 clips; 10 of 10 folds)"),
    ("report.json", "notes", ["half of it is rain"], "> half of it is rain"),
    ("report.json", "per_class.siren.precision", 0.0123, "0.012 ["),
    ("report.json", "per_class.siren.recall", 0.0234, "0.023 ["),
    ("report.json", "per_class.siren.f1", 0.0344, "0.034 ["),
    ("report.json", "per_class.siren.f1_interval", [0.21, 0.22], "[0.21, 0.22]"),
    ("report.json", "per_class.siren.support", 4321, "| 4,321 |"),
    ("report.json", "per_class.siren.recordings", 4, "siren (4)"),
    ("report.json", "confusion_matrix.8.9", 55, "Most frequent confusions: siren as street_music (55 of "),
    ("report.json", "by_length.< 1 s", CONDITION, "Clips of length “< 1 s”: accuracy 0.004 [0.00, 0.01]"),
    ("report.json", "by_salience.background", CONDITION, "Clips of salience “background”: accuracy 0.004 [0.00"),
    ("report.json", "reliability.confidence", [1.0] * 15, "scores are too high: the mean confidence is 1.00"),
    ("metrics.json", "test_fold", 7, "Tested once on fold 7; trained on folds"),
    ("metrics.json", "test_fold", 7, "split: fold 7"),
    ("metrics.json", "train_folds", [1, 2], "trained on folds 1, 2; the checkpoint was selected on fold 4"),
    ("metrics.json", "clips.train", 7123, "Clips: 7,123 for training, 60 for validation, 60 for the test."),
    ("metrics.json", "clips.validation", 0, "Clips: 500 for training, 60 for the test."),
    ("metrics.json", "leaks.shared_recording_clips", 9, "- from a recording also in training: 9 (15.0%)"),
    ("metrics.json", "leaks.exact_duplicates", 0, "- identical to a training clip: none"),
    ("metrics.json", "trained_parameters", 77, "77 of 5,462 parameters were trained"),
    ("metrics.json", "parameters", 9462, "4,321 of 9,462 parameters were trained"),
    ("metrics.json", "train_seconds", 3600.4, "Training took 3,600 s on"),
    ("run.json", "config.seed", 7, "learning rate 0.001, seed 7;"),
    ("run.json", "changed_flags.learning_rate", 0.25, "--learning_rate 0.25 \\"),
    ("run.json", "config.max_steps", 1234, "1,234 updates, 8 clips of 4 s per update"),
    ("run.json", "config.max_steps", -1, "10 epochs, 8 clips of 4 s per update"),
    ("run.json", "config.gradient_accumulation_steps", 4, "32 clips of 4 s per update"),
    ("run.json", "processes", 2, "accelerate launch --num_processes 2 -m urbansound_hf train \\"),
    ("run.json", "environment.hardware.cpu", "Z80", "on 2 CPU cores (Z80): about"),
    ("run.json", "environment.hardware.cores", 1, "on 1 CPU core ("),
    ("run.json", "environment.code.commit", "beef", "git checkout beef\n"),
    ("run.json", "environment.code.dirty", True, "with uncommitted changes"),
    ("run.json", "environment.packages.torch", "9.9", "torch 9.9"),
    ("run.json", "data.fingerprint", "abc123", "data fingerprint abc123"),
    ("run.json", "data.clips", 681, "UrbanSound8K (681 clips; "),
    ("run.json", "continued", True, "The last part of an interrupted training took"),
    ("config.json", "clip_seconds", 2.5, "for clips of up to 2.5 s."),
    ("config.json", "model_type", "cnn", "A `cnn` model"),
]  # fmt: skip


@pytest.mark.parametrize(("file", "place", "value", "told"), FOLLOWS, ids=[f"{f[1]} {f[3][:20]}" for f in FOLLOWS])
def test_what_the_card_says_follows_its_source(run, file, place, value, told):
    if place == "environment.hardware.cpu":
        change(run, file, "environment.hardware.cores", 2)
    assert told not in render_card(run)
    assert told in change(run, file, place, value)


def test_energy_is_seconds_times_the_power_that_is_assumed(run):
    change(run, "run.json", "environment.hardware.cores", 4)
    assert "about 40 Wh, an estimate that assumes 10 W per core" in change(run, "metrics.json", "train_seconds", 3600)
    change(run, "run.json", "config.use_cpu", False)
    told = change(run, "run.json", "gpus", ["NVIDIA H100", "NVIDIA H100"])
    assert "2 GPUs (NVIDIA H100): about 600 Wh, an estimate that assumes 300 W per GPU" in told
    assert "16 clips of 4 s per update" in told


# ---- as the Hub reads it


def test_the_metadata_round_trips(made):
    text = (made / "README.md").read_text(encoding="utf-8")
    loaded = ModelCard.load(made / "README.md")
    assert str(loaded) == text == render_card(made)
    data, measured = loaded.data, json.loads((made / "report.json").read_text(encoding="utf-8"))
    assert (data.library_name, data.pipeline_tag, data.metrics) == (
        "transformers",
        "audio-classification",
        ["accuracy", "f1"],
    )
    assert data.tags == ["audio-classification", "urbansound8k", "yamnet"]
    assert "datasets" not in data.to_dict() and "base_model" not in data.to_dict()
    assert [result.metric_value for result in data.eval_results] == [measured["accuracy"], measured["macro_f1"]]
    assert {result.dataset_split for result in data.eval_results} == {"fold 3"}
    assert {result.dataset_name for result in data.eval_results} == {
        "UrbanSound8K (680 clips; 1 of 10 folds, not comparable)"
    }
    index = eval_results_to_model_index(data.model_name, data.eval_results)
    assert yaml.safe_load(text.split("---")[1])["model-index"] == index
    assert ModelCardData(**yaml.safe_load(data.to_yaml())).to_dict() == data.to_dict()


def test_on_the_hub_the_card_knows_its_name(made):
    text = render_card(made, "anna/street-sounds")
    assert "# street-sounds\n" in text and 'model="anna/street-sounds", trust_remote_code=True)' in text
    assert ModelCard(text).data.model_name == "anna/street-sounds"
    assert text.replace("anna/street-sounds", ".").replace("# street-sounds", "# Sound classifier") == render_card(
        made
    ).replace("name: yamnet\n", "name: .\n")


BASE = "facebook/wav2vec2-base"
OTHER = {"license": "other", "license_name": "cc-by-nc-3.0-and-base-model", "license_link": CC_BY_NC}
BASE_ONLY = {"license": "other", "license_name": "base-model", "license_link": f"https://huggingface.co/{BASE}"}


@pytest.mark.parametrize(
    ("data", "model", "terms"),
    [
        ("UrbanSound8K", "cnn", {"license": "cc-by-nc-3.0"}),
        ("UrbanSound8K", BASE, OTHER),
        ("UrbanSound8K", "{folder}", OTHER),
        ("anna/urban-copy", BASE, OTHER),  # the same classes: the same recordings, whoever keeps them
        ("synthetic", "cnn", {"license": "apache-2.0"}),
        ("synthetic", BASE, BASE_ONLY),
        ("synthetic", "{folder}", {}),
    ],
)
def test_the_licence_is_no_freer_than_what_went_in(run, tmp_path, data, model, terms):
    name = model.format(folder=run)
    dataset = {"UrbanSound8K": "urbansound8k"}.get(data, data)
    config = resolved(tmp_path, "--dataset", dataset, "--model_name_or_path", name)
    write_json(run / "run.json", receipt_of(config, data))
    text = render_card(run)
    found = ModelCard(text).data.to_dict()
    assert {key: found[key] for key in found if key.startswith("license")} == terms
    assert found.get("base_model") == (BASE if model == BASE else None)
    assert found.get("datasets") == (["anna/urban-copy"] if "/" in data else None)
    assert ("CC BY-NC 3.0" in text) == (data != "synthetic")
    assert ("trained from random weights" in text) == (model == "cnn")
    assert ("licence of the base model, [facebook/wav2vec2-base]" in text) == (model == BASE)
    assert ("that it was fine-tuned from applies as well" in text) == (name == str(run))
    assert str(run) not in text


def test_of_other_data_the_terms_are_not_guessed(tmp_path, made):
    folder = write_tiny_run(tmp_path / "run", None, labels=["rain", "wind"], parameters=1, trained_parameters=1)
    shutil.copy(made / "run.json", folder)
    write_run(folder)
    text = change(folder, "run.json", "data.name", "weather")
    assert "license" not in ModelCard(text).data.to_dict()
    assert "The licence of the data, weather, is not known here" in text and "CC BY-NC" not in text
    assert "Classifies sounds into 2 classes: rain, wind." in text


@pytest.mark.parametrize(("model", "more"), [("cnn", ""), (BASE, "; and that of the base model")])
def test_a_known_data_set_brings_its_licence_and_citation(run, tmp_path, model, more):
    known, variant = known_dataset("ESC-50 (esc10)")
    receipt = receipt_of(resolved(tmp_path, "--model_name_or_path", model), known.title(variant), known)
    change(run, "metrics.json", "labels", [f"<{number}>" for number in range(10)])
    write_json(run / "run.json", receipt)
    text = render_card(run)
    assert f"[ESC-50 (esc10)]({known.homepage}), licensed {known.licence}." in text and known.citation in text
    data = ModelCard(text).data.to_dict()
    assert (data["license"], data["license_name"], data["license_link"]) == (
        "other", f"{known.licence}{more}", known.homepage)  # fmt: skip


# ---- as people read it


def test_rendering_needs_neither_torch_nor_transformers_nor_the_flags(run):
    code = """
import sys
from pathlib import Path
from urbansound_hf.reports.model_card import render_card
from urbansound_hf.reports.run_report import report
folder = Path(sys.argv[1])
print(len(render_card(folder)), len(report(folder)))
loaded = {name for name in sys.modules for heavy in ("torch", "transformers", "urbansound_hf.config")
          if name == heavy or name.startswith(heavy + ".")}
assert not loaded, loaded
"""
    shutil.rmtree(run / "conditions.png", ignore_errors=True)
    call = [sys.executable, "-c", code, str(run)]
    printed = subprocess.run(call, capture_output=True, text=True, cwd=ROOT)
    assert printed.returncode == 0, printed.stderr
    assert all(int(length) > 1000 for length in printed.stdout.split())


def variants(made: Path, folder: Path) -> dict[str, str]:
    """The card of one run under all circumstances that leave something out, or bring something."""
    shutil.copytree(made, folder)
    texts = {"local": render_card(folder), "on the Hub": render_card(folder, "anna/sounds")}
    texts["synthetic"] = change(folder, "run.json", "data.name", "synthetic")
    change(folder, "report.json", "by_length", {})
    texts["no conditions"] = change(folder, "report.json", "by_salience", {})
    texts["no commit"] = change(folder, "run.json", "environment.code", {"source": "e0be15b4"})
    (folder / "checkpoints").mkdir()
    (folder / "run.json").rename(folder / BEGUN)
    texts["not finished"] = render_card(folder)
    (folder / BEGUN).unlink()
    texts["no receipt"] = render_card(folder)
    return texts


def test_no_link_is_broken_no_heading_empty_nothing_undefined(made, tmp_path):
    texts = variants(made, tmp_path / "run")
    for name, text in texts.items():
        body = re.sub(r"```.*?```", "code", ModelCard(text).text, flags=re.DOTALL)
        links = re.findall(r"\]\(([^)]+)\)", body)
        assert {link for link in links if "://" not in link} == {"confusion_matrix.png", "reliability.png"}, name
        assert all((made / link).is_file() for link in links if "://" not in link)
        sections = re.split(r"^#+ .*$", body, flags=re.MULTILINE)
        assert len(sections) > 5 and all(section.strip() for section in sections[1:]), name
        assert not re.search(r"None|Undefined|nan\b|\{\{|\{%|\n{4}|  \n|,,| ,", body), name
    assert ("## Training" in texts["not finished"]) and ("## Training" not in texts["no receipt"])
    assert "git checkout" not in texts["no commit"] and "pip install -e ." in texts["no commit"]
    assert "Clips of" not in texts["no conditions"]


def test_without_leaks_the_protocol_stands_alone(run):
    metrics = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    del metrics["leaks"]
    (run / "metrics.json").write_text(json.dumps(metrics), encoding="utf-8")
    assert "Overlap of test and training clips" not in render_card(run)
    assert "## Protocol\n\nTested once" in render_card(run)


def test_a_gathered_cross_validation_stands_on_the_cards_of_its_own_runs(run):
    other = write_tiny_run(run.parent / "fold4", 4)
    gathered = write_cross_validation(run.parent, [read_run(run), read_run(other)])
    text = render_card(run)
    mean, std = gathered["mean_accuracy"], gathered["std_accuracy"]
    assert f"**2 of 10 folds, not comparable**: accuracy **{mean:.3f} ± {std:.3f}**" in text
    assert f"macro-F1 {gathered['mean_macro_f1']:.3f} ± {gathered['std_macro_f1']:.3f}" in text
    for fold in gathered["folds"]:
        assert re.search(rf"^\| +{fold['test_fold']} \| .* {fold['test_accuracy']:.3f} \[", text, re.MULTILINE)
    rows = json.loads((run.parent / "metrics.json").read_text(encoding="utf-8"))
    rows["folds"][0]["test_accuracy"] = 0.987  # of a run that was replaced since
    (run.parent / "metrics.json").write_text(json.dumps(rows), encoding="utf-8")
    assert "cross-validation" not in render_card(run)


def test_only_what_is_weak_is_called_so():
    row = {"f1": 1.0, "f1_interval": None, "recordings": 6, "support": 5}
    perfect = {
        "labels": ["a", "b"], "per_class": {"a": row, "b": row}, "macro_f1": 1.0, "confusion_matrix": [[5, 0], [0, 5]],
        "by_length": {"< 1 s": {"accuracy": 1.0}}, "by_salience": {}, "accuracy": 1.0, "ece": 0.0,
        "reliability": {"counts": [0, 10], "confidence": [None, 0.99]},
    }  # fmt: skip
    closed, scores = weaknesses(perfect)
    assert "no class for other sounds" in closed
    assert scores.startswith("Its scores are calibrated on average: the mean confidence is 0.99")
    perfect["reliability"]["confidence"] = [None, 0.7]
    assert weaknesses(perfect)[1].startswith("Its scores are too low: the mean confidence is 0.70")


# ---- as it is used


def code(text: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


@pytest.mark.parametrize(
    "argv",
    [
        [],
        ["--test_fold", "all", "--validation", "none", "--eval_strategy", "no"],
        ["--bf16", "true", "--lr_scheduler_type", "cosine", "--warmup_steps", "0", "--gradient_checkpointing"],
        ["--model_name_or_path", "cnn", "--model_config", "architecture=residual", "--optim_args", "a=b c=d"],
        ["--split", "random", "--metric_for_best_model", "loss", "--lr_scheduler_kwargs", '{"last_epoch": -1}'],
        ["--dataset", "synthetic", "--freeze", "backbone", "--unfreeze_last_n", "1", "--layer_decay", "0.8"],
    ],
    ids=lambda argv: " ".join(argv[:4]),
)
def test_the_command_repeats_the_run(run, argv, tmp_path):
    data_dir = [] if "--dataset" in argv else ["--data_dir", str(tmp_path / "data")]
    flags = ["--output_dir", str(tmp_path), *data_dir, *argv]
    write_json(run / "run.json", receipt_of(resolved(tmp_path, *flags)))
    before = Run(run).receipt["config"]
    shell = code(render_card(run), "bash")[-1]
    assert str(tmp_path) not in shell
    *_, command = shell.replace("\\\n", " ").strip().splitlines()
    program, script, *words = shlex.split(command)
    assert (program, script) == ("urbansound-hf", "train")
    after = json.loads(json.dumps(parse_run_config(words, DEFAULT_CONFIG).as_dict()))
    matters = (before.keys() | after.keys()) - (INCIDENTAL - {"dataset", "test_fold"})
    assert {key: before.get(key) for key in matters} == {key: after.get(key) for key in matters}
    assert after["output_dir"] == "outputs/yamnet"


def test_folders_of_the_machine_have_no_place_in_the_command(run, tmp_path):
    (tmp_path / "secret_model").mkdir()
    model, checkpoint = str(tmp_path / "secret_model"), str(tmp_path / "secret_checkpoint")
    flags = ["--model_name_or_path", model, "--dataset", str(tmp_path / "secret_data")]
    config = resolved(tmp_path, *flags, "--resume_from_checkpoint", checkpoint)
    write_json(run / "run.json", receipt_of(config, "secret_data"))
    text = change(run, "run.json", "changed_flags.deepspeed", str(tmp_path / "secret.json"))
    assert "secret_model" not in text and str(tmp_path) not in text and "secret.json" not in text
    for shown in ("--model_name_or_path MODEL_FOLDER", "--dataset DATA_FOLDER", "--deepspeed DEEPSPEED"):
        assert shown in text


def test_a_folder_is_no_hub_id(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert is_hub_id("models/yamnet")
    (tmp_path / "models" / "yamnet").mkdir(parents=True)
    assert not any(map(is_hub_id, ("models/yamnet", "./models", "~/yamnet", "outputs/a/b", "cnn")))


def test_the_snippet_runs_as_printed_without_this_package(made, tmp_path):
    """Only transformers, torch, torchaudio and soundfile; a stereo file at 44.1 kHz; the scores of our classifier."""
    time, families = np.arange(44100) / 44100, ("yamnet", "wav2vec2")
    left = 0.3 * np.sin(2 * np.pi * 700 * time) + 0.05 * np.random.default_rng(0).normal(size=44100)
    stereo = np.stack([left, 0.2 * np.sin(2 * np.pi * 3000 * time)], axis=1)
    for family in families:
        folder = tmp_path / family
        shutil.copytree(made, folder, ignore=shutil.ignore_patterns("*.py", "*config.json"))
        tiny.save(family, folder, clip_seconds=4.0)
        (snippet,) = code(render_card(folder), "python")
        (folder / "snippet.py").write_text(snippet, encoding="utf-8")
        soundfile.write(folder / "clip.wav", stereo, 44100)
    absent = ["urbansound_hf", "torchcodec", "scipy", "librosa", "datasets", "evaluate"]
    each = f"for family in {families}: os.chdir(f'{tmp_path}/{{family}}'); runpy.run_path('snippet.py')"
    start = f"import os, runpy, sys\nsys.modules.update(dict.fromkeys({absent}))\n{each}"
    call = subprocess.run([sys.executable, "-c", start], cwd=tmp_path, capture_output=True, text=True)
    assert call.returncode == 0, call.stderr
    for family, printed in zip(families, call.stdout.splitlines(), strict=True):
        classifier = SoundClassifier.from_pretrained(tmp_path / family)
        waveform = load_audio(tmp_path / family / "clip.wav", classifier.sampling_rate)
        ours = dict(zip(classifier.labels, classifier.probabilities([waveform])[0].tolist(), strict=True))
        scores = {row["label"]: row["score"] for row in ast.literal_eval(printed)}
        assert list(scores) == sorted(ours, key=ours.get, reverse=True)[:5]
        assert scores == pytest.approx({name: ours[name] for name in scores}, abs=1e-4)


def test_what_the_models_code_imports_is_installed_too(tmp_path):
    models = ROOT / "urbansound_hf" / "models"
    for family, more in {"yamnet": "", "cnn": "", "ecapa_tdnn": " speechbrain", "clap": ""}.items():
        (tmp_path / family).mkdir()
        (file,) = (models / family).glob("modeling_*.py")
        shutil.copy(file, tmp_path / family)
        assert packages(tmp_path / family) == f"transformers torch torchaudio soundfile{more}"


# ---- of the data


def test_the_card_of_the_data_set():
    text = data_card("me/clips", 8732, "| class | fold 1 |", [], 16000, True)
    loaded = DatasetCard(text)
    assert str(loaded) == text
    assert (loaded.data.license, loaded.data.task_categories) == ("cc-by-nc-3.0", ["audio-classification"])
    assert loaded.data.size_categories == ["1K<n<10K"]
    assert "8,732 urban sounds" in text and "mono at 16,000 Hz" in text and ">" not in loaded.text.replace("<fsID>", "")
    assert "| class | fold 1 |" in text and 'load_dataset("me/clips"' in text and "](FREESOUNDCREDITS.txt)" in text
    assert all(str(recording) in text for recording in urbansound8k.RECORDINGS_IN_TWO_FOLDS)
    assert urbansound8k.CITATION in text and urbansound8k.DOI in text and urbansound8k.HOMEPAGE in text


def test_the_card_of_a_part_of_the_data_set_says_so():
    text = data_card("me/clips", 680, "", ["subset: 680 of 8,732", "two are short"], 22050, False)
    assert (
        "680 urban sounds" in text and "22,050 Hz" in text and "\n> subset: 680 of 8,732\n\n> two are short\n" in text
    )
    assert DatasetCard(text).data.size_categories == ["n<1K"]
    assert "](FREESOUNDCREDITS.txt)" not in text
