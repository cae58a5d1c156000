"""The cards that people meet on the Hub: the README.md of a run's folder and of a pushed data set.

A card is computed from what lies in the run's folder (metrics.json, report.json, run.json, config.json), so that it
can be made again at any time; the words are in templates/.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import DatasetCard, DatasetCardData, EvalResult, ModelCard, ModelCardData

from urbansound_hf import labels, leaks, markdown, receipts, reproduction, runs
from urbansound_hf.weaknesses import weaknesses

TEMPLATES = Path(__file__).parent / "templates"
CC_BY_NC = "https://creativecommons.org/licenses/by-nc/3.0/"
OWN_LICENCE = "apache-2.0"  # of this project, and so of the sounds that its synthetic data set is made of
SIZES = {1_000: "n<1K", 10_000: "1K<n<10K", 100_000: "10K<n<100K"}  # the Hub's names, below so many rows


def write(folder: Path, receipt: Mapping[str, Any] | None = None) -> Path:
    """Writes the card of the run in `folder` as its README.md, with `.` as the model's name; see `render`."""
    path = folder / "README.md"
    path.write_text(render(folder, receipt=receipt), encoding="utf-8")
    return path


def render(folder: Path, repo_id: str | None = None, receipt: Mapping[str, Any] | None = None) -> str:
    """The card of a run: YAML that the Hub reads, then Markdown for people.

    Args:
        folder: of a run with its report; without a receipt (run.json), the card has nothing on how it was trained.
        repo_id: where it will stand on the Hub, for the snippet and the title.
        receipt: of a run that is just ending, whose run.json is still to be written.
    """
    metrics, measured, config = (_read(folder / name) for name in (runs.METRICS, "report.json", "config.json"))
    if not receipt:
        receipt = receipts.read(folder) if receipts.finished(folder) else receipts.begun(folder)
    card = ModelCard.from_template(
        metadata(metrics, measured, receipt, config["model_type"], repo_id),
        template_path=str(TEMPLATES / "card.md.jinja"),
        title=repo_id.rpartition("/")[2] if repo_id else "Sound classifier",
        repo_id=repo_id or ".",
        metrics=metrics,
        measured=measured,
        config=config,
        receipt=receipt,
        packages=packages(folder),
        trust=", trust_remote_code=True" * ("auto_map" in config),
        scores=markdown.scores(measured),
        amount=markdown.amount(measured),
        protocol=markdown.protocol(metrics),
        classes=markdown.class_table(measured["per_class"], markdown.caution(measured["scope"])),
        how_sure=markdown.HOW_SURE,
        folds=cross_validation(folder, metrics),
        leaks=[line.strip() for line in leaks.describe(metrics["leaks"]).splitlines()] if "leaks" in metrics else [],
        weaknesses=weaknesses(measured),
        urbansound=is_urbansound(metrics["labels"], receipt),
        labels=labels,
        by_nc=CC_BY_NC,
        **(_training(metrics, receipt, config["model_type"]) if receipt else {}),
    )
    return str(card)


def metadata(
    metrics: Mapping[str, Any],
    measured: Mapping[str, Any],
    receipt: Mapping[str, Any] | None,
    model_type: str,
    repo_id: str | None = None,
) -> ModelCardData:
    """What the Hub reads: how to load it, where it comes from, under which terms, and its scores with their protocol.

    `datasets` holds a Hub id that was really trained on, or nothing: UrbanSound8K has no official one, and a copy that
    somebody else keeps was not read.
    """
    urbansound = is_urbansound(metrics["labels"], receipt)
    dataset = reproduction.hub_dataset(receipt) if receipt else None
    return ModelCardData(
        library_name="transformers",
        pipeline_tag="audio-classification",
        base_model=reproduction.base_model(receipt["config"]) if receipt else None,
        datasets=[dataset] if dataset else None,
        metrics=["accuracy", "f1"],
        tags=["audio-classification", *["urbansound8k"] * urbansound, model_type],
        model_name=repo_id or model_type,
        eval_results=results(metrics, measured, receipt),
        **(licence(urbansound, receipt) if receipt else {}),
    )


def results(
    metrics: Mapping[str, Any], measured: Mapping[str, Any], receipt: Mapping[str, Any] | None
) -> list[EvalResult]:
    """Accuracy and macro-F1; the data set's name and split say under which protocol, and whether it is comparable."""
    data, config = (receipt["data"], receipt["config"]) if receipt else ({"name": "unknown"}, {})
    clips = f"{data['clips']:,} clips; " if "clips" in data else ""
    told: dict[str, Any] = {
        "task_type": "audio-classification",
        "task_name": "Audio classification",
        "dataset_type": data["name"].lower() if data["name"] == "UrbanSound8K" else data["name"],
        "dataset_name": f"{data['name']} ({clips}{measured['scope']})",
        "dataset_config": config.get("dataset_config"),
        "dataset_revision": config.get("dataset_revision"),
        "dataset_split": "test" if metrics["test_fold"] is None else f"fold {metrics['test_fold']}",
    }
    return [
        EvalResult(metric_type="accuracy", metric_name="Accuracy", metric_value=measured["accuracy"], **told),
        EvalResult(metric_type="f1", metric_name="Macro-F1", metric_value=measured["macro_f1"], **told),
    ]


def licence(urbansound: bool, receipt: Mapping[str, Any]) -> dict[str, Any]:
    """The terms that a checkpoint carries, as far as they are known; nothing where they are not.

    Whether weights are an adaptation of the recordings they learned from is not settled, so the careful reading is
    taken: the non-commercial terms of UrbanSound8K hold for them too. The terms of a base model come on top, and are
    not known here; with those there is no identifier for both, but `other` with a name and a link.
    """
    base, scratch = reproduction.base_model(receipt["config"]), reproduction.from_scratch(receipt["config"])
    if not urbansound and receipt["data"]["name"] != "synthetic":
        return {}  # the terms of these data are not known here
    if scratch:
        return {"license": labels.LICENCE_ID if urbansound else OWN_LICENCE}
    if not (urbansound or base):
        return {}  # all is up to a base model that has no name
    name = f"{labels.LICENCE_ID}-and-base-model" if urbansound else "base-model"
    link = CC_BY_NC if urbansound else f"https://huggingface.co/{base}"
    return {"license": "other", "license_name": name, "license_link": link}


def is_urbansound(names: Sequence[str], receipt: Mapping[str, Any] | None) -> bool:
    """Whether the data are UrbanSound8K's, from wherever they came; the synthetic ones only borrow its classes."""
    return tuple(names) == labels.CLASSES and not (receipt and receipt["data"]["name"] == "synthetic")


def packages(folder: Path) -> str:
    """What to install for the snippet: more than the pipeline's own where the model's code asks for it."""
    code = "\n".join(path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.py")))
    asked = re.findall(r"""(?:^(?:from|import) |import_module\(f?["'])(torchaudio|speechbrain)\b""", code, re.MULTILINE)
    return " ".join(["transformers", "torch", "soundfile", *dict.fromkeys(asked)])


def cross_validation(folder: Path, metrics: Mapping[str, Any]) -> dict[str, Any]:
    """The folds of the experiment that this run is one of, if they were gathered: a table, mean and scope; else {}."""
    path = folder.absolute().parent / runs.METRICS
    gathered = _read(path) if path.is_file() else {}
    key = ("test_fold", "test_accuracy")
    if not any(all(fold[name] == metrics[name] for name in key) for fold in gathered.get("folds", [])):
        return {}
    accuracy, macro_f1 = (
        markdown.spread(gathered[f"mean_{name}"], gathered[f"std_{name}"]) for name in ("accuracy", "macro_f1")
    )
    table = markdown.fold_table(gathered["folds"], markdown.caution(gathered["scope"]))
    return {"table": table, "accuracy": accuracy, "macro_f1": macro_f1, "scope": gathered["scope"]}


def _training(metrics: Mapping[str, Any], receipt: Mapping[str, Any], model_type: str) -> dict[str, str]:
    base = reproduction.base_model(receipt["config"])
    origin = (
        f"fine-tuned from [{base}](https://huggingface.co/{base})" if base else "fine-tuned from a local checkpoint"
    )
    if reproduction.from_scratch(receipt["config"]):
        origin = "trained from random weights"
    return {
        "origin": origin,
        "recipe": reproduction.recipe(receipt),
        "hardware": reproduction.hardware(receipt),
        "energy": reproduction.energy(receipt, metrics["train_seconds"]),
        "command": reproduction.command(receipt, f"outputs/{model_type}"),
    }


def data_card(repo_id: str, rows: int, table: str, notes: Sequence[str], sampling_rate: int, credits: bool) -> str:
    """The card of UrbanSound8K as this project pushes it.

    Args:
        repo_id: where it will be.
        rows: how many clips.
        table: how many of them each class has in each fold, as Markdown.
        notes: what every score from these clips must say, such as that they are a part of it.
        sampling_rate: of the stored sounds, in Hz.
        credits: whether the file that names the author of every recording goes with it.
    """
    size = next((name for below, name in SIZES.items() if rows < below), "100K<n<1M")
    data = DatasetCardData(
        pretty_name="UrbanSound8K",
        license=labels.LICENCE_ID,
        task_categories=["audio-classification"],
        size_categories=[size],
        annotations_creators=["expert-generated"],
        source_datasets=["original"],
        tags=["audio", "urbansound8k", "environmental-sound"],
        configs=[{"config_name": "default", "data_files": [{"split": "train", "path": "data/train-*"}]}],
    )
    card = DatasetCard.from_template(
        data,
        template_path=str(TEMPLATES / "data_card.md.jinja"),
        repo_id=repo_id,
        rows=rows,
        table=table,
        credits=credits,
        notes=notes,
        sampling_rate=sampling_rate,
        labels=labels,
        by_nc=CC_BY_NC,
    )
    return str(card)


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))
