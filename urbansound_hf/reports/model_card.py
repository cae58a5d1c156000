"""Model cards and data set cards: the README.md of a run's folder and of a pushed data set.

A model card is computed from the files of the run (metrics.json, report.json, run.json, config.json), so it can be
rendered again at any time, without torch and Transformers. The texts are in templates/.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from huggingface_hub import DatasetCard, DatasetCardData, EvalResult, ModelCard, ModelCardData

from urbansound_hf.data import urbansound8k
from urbansound_hf.data.leaks import describe_leaks
from urbansound_hf.errors import redacted
from urbansound_hf.evaluation.metrics import present_metrics
from urbansound_hf.evaluation.runs import Run, read_json, scope_caution
from urbansound_hf.layout import METRICS, expand_user
from urbansound_hf.reports import markdown
from urbansound_hf.reports.markdown import score
from urbansound_hf.text import counted, in_markdown

TEMPLATES = Path(__file__).parent / "templates"
CC_BY_NC = "https://creativecommons.org/licenses/by-nc/3.0/"
OWN_LICENCE = "apache-2.0"  # of this project, and of its synthetic sounds
SIZES = {1_000: "n<1K", 10_000: "1K<n<10K", 100_000: "10K<n<100K"}  # the Hub's size categories by their upper ends


def render_card(folder: Path, repo_id: str | None = None, receipt: Mapping[str, Any] | None = None) -> str:
    """Renders the card of a run: metadata that the Hub reads as YAML, then Markdown.

    Args:
        folder: of a run with its report; without a receipt (run.json), the card has no section on the training.
        repo_id: its id on the Hub, for the snippet and the title.
        receipt: of a run that is just ending; default: the one in the folder.
    """
    run = Run(folder)
    metrics, measured, config = run.metrics, run.report, run.model_config
    receipt, leaks = receipt or run.receipt, describe_leaks(metrics["leaks"]) if "leaks" in metrics else ""
    card = ModelCard.from_template(
        card_metadata(run, receipt, repo_id),
        template_path=str(TEMPLATES / "card.md.jinja"),
        title=repo_id.rpartition("/")[2] if repo_id else "Sound classifier",
        repo_id=repo_id or ".",
        metrics=metrics,
        measured=measured,
        names=", ".join(map(in_markdown, measured["labels"])),
        notes=[in_markdown(note) for note in measured["notes"]],
        data_name=in_markdown(receipt["data"]["name"]) if receipt else "",
        config=config,
        thresholds=", ".join(f"{each:.2f}" for each in config.get("thresholds") or ()),
        receipt=receipt,
        packages=packages(folder),
        trust=", trust_remote_code=True" if "auto_map" in config else "",
        scores=interval_scores(measured),
        amount=markdown.amount(measured),
        protocol=markdown.protocol(metrics),
        classes=markdown.class_table(measured["per_class"], scope_caution(measured["scope"])),
        uncertainty=markdown.UNCERTAINTY,
        folds=cross_validation(folder, metrics),
        leaks=[in_markdown(line.strip()) for line in leaks.splitlines()],
        weaknesses=weaknesses(measured),
        urbansound=is_urbansound(metrics["labels"], receipt),
        labels=urbansound8k,
        by_nc=CC_BY_NC,
        **(training_facts(metrics, receipt, config["model_type"]) if receipt else {}),
    )
    return redacted(str(card))


def card_metadata(run: Run, receipt: Mapping[str, Any] | None, repo_id: str | None = None) -> ModelCardData:
    """The metadata that the Hub reads; data set's name and split of a score state its protocol.

    `datasets` is the Hub id of the training data if they came from the Hub. UrbanSound8K itself has no official id.
    """
    metrics, measured, model_type = run.metrics, run.report, run.model_config["model_type"]
    urbansound = is_urbansound(metrics["labels"], receipt)
    data, config = (receipt["data"], receipt["config"]) if receipt else ({"name": "unknown"}, {})
    clips = f"{data['clips']:,} clips; " if "clips" in data else ""
    protocol: dict[str, Any] = {
        "task_type": "audio-classification",
        "task_name": "Audio classification",
        "dataset_type": data["name"].lower() if data["name"] == "UrbanSound8K" else data["name"],
        "dataset_name": f"{data['name']} ({clips}{measured['scope']})",
        "dataset_config": config.get("dataset_config"),
        "dataset_revision": config.get("dataset_revision"),
        "dataset_split": "test" if metrics["test_fold"] is None else f"fold {metrics['test_fold']}",
    }
    results = [
        EvalResult(
            metric_type=each.hub_type,
            metric_name=each.title[0].upper() + each.title[1:],
            metric_value=measured[each.name],
            **protocol,
        )
        for each in present_metrics(measured)
        if each.hub_type  # the Hub has a name for it
    ]
    return ModelCardData(
        library_name="transformers",
        pipeline_tag="audio-classification",
        base_model=receipt["model"]["base_model"] if receipt else None,
        datasets=[data["hub_dataset"]] if data.get("hub_dataset") else None,
        metrics=[each.metric_type for each in results],
        tags=["audio-classification", *["urbansound8k"] * urbansound, model_type],
        model_name=repo_id or model_type,
        eval_results=results,
        **(checkpoint_licence(urbansound, receipt) if receipt else {}),
    )


def checkpoint_licence(urbansound: bool, receipt: Mapping[str, Any]) -> dict[str, Any]:
    """The licence of a checkpoint as metadata; empty where the licence of the data or of the base model is unknown.

    Whether weights are an adaptation of the recordings that they were trained on is not settled. The card takes the
    careful reading: the licence of the data applies to the weights too. The licence of a base model applies as well and
    is not known here; the Hub has no identifier for both, so the licence is `other`.
    """
    data, base, scratch = receipt["data"], receipt["model"]["base_model"], receipt["model"]["from_scratch"]
    name, link = (urbansound8k.LICENCE_ID, CC_BY_NC) if urbansound else (data.get("licence"), data.get("homepage"))
    synthetic = data["name"] == "synthetic"
    if scratch and (urbansound or synthetic):
        return {"license": name if urbansound else OWN_LICENCE}
    if synthetic and base:
        name, link = "base-model", f"https://huggingface.co/{base}"
    elif name and not scratch:
        name = f"{name}-and-base-model" if urbansound else f"{name}; and that of the base model"
    return {"license": "other", "license_name": name, "license_link": link} if name else {}


def is_urbansound(names: Sequence[str], receipt: Mapping[str, Any] | None) -> bool:
    """Whether the data are UrbanSound8K's, from any source; the synthetic data have the same classes and are not."""
    return tuple(names) == urbansound8k.CLASSES and not (receipt and receipt["data"]["name"] == "synthetic")


def interval_scores(measured: Mapping[str, Any]) -> str:
    """ "accuracy **[0.61, 0.73]** (0.672), macro-F1 **[0.59, 0.71]** (0.651)": a score's interval is what is known."""
    shown = []
    for each in present_metrics(measured):
        value, ends = f"{measured[each.name]:.3f}", measured.get(f"{each.name}_interval")
        shown.append(f"{each.title} **{markdown.interval(ends)}** ({value})" if ends else f"{each.title} {value}")
    return ", ".join(shown)


def packages(folder: Path) -> str:
    """The packages that the snippet needs: torchaudio resamples in the pipeline; the code of some models needs more."""
    code = "\n".join(path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.py")))
    imported = re.findall(r"""(?:^(?:from|import) |import_module\(f?["'])(speechbrain)\b""", code, re.MULTILINE)
    return " ".join(["transformers", "torch", "torchaudio", "soundfile", *dict.fromkeys(imported)])


def cross_validation(folder: Path, metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Table, mean scores and scope of the cross-validation that the run belongs to; empty if none was gathered."""
    path = folder.absolute().parent / METRICS
    gathered = read_json(path, "gather the folds again: urbansound-hf crossval", {}) if path.is_file() else {}
    own = [metrics[key] for key in ("test_fold", "test_accuracy")]
    if own not in [[fold["test_fold"], fold["test_accuracy"]] for fold in gathered.get("folds", [])]:
        return {}
    table = markdown.fold_table(gathered["folds"], scope_caution(gathered["scope"]))
    return {"table": table, "scores": markdown.spreads(gathered), "scope": gathered["scope"]}


def data_card(repo_id: str, rows: int, table: str, notes: Sequence[str], sampling_rate: int, credits: bool) -> str:
    """Renders the card of UrbanSound8K as this project pushes it.

    Args:
        table: the number of clips of each class and fold, as Markdown.
        notes: cautions that every score from these clips must carry, such as that they are a subset.
        credits: whether the file with the author of every recording is pushed too.
    """
    size = next((name for below, name in SIZES.items() if rows < below), "100K<n<1M")
    data = DatasetCardData(
        pretty_name="UrbanSound8K",
        license=urbansound8k.LICENCE_ID,
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
        labels=urbansound8k,
        by_nc=CC_BY_NC,
    )
    return str(card)


MOST = 3  # weakest classes, or confusions, that are named
FEW_RECORDINGS = 5  # the score of a class tested on so few is unreliable
CALIBRATED = 0.02  # largest gap between mean confidence and accuracy that counts as calibrated


def weaknesses(measured: Mapping[str, Any]) -> list[str]:
    """Sentences on the closed set of classes and on the weaknesses that a report (report.json) shows."""
    rows = {in_markdown(name): row for name, row in measured["per_class"].items()}
    outcome = "may be given" if "mean_average_precision" in measured else "is assigned to"
    closed = f"It has {len(rows)} classes and no class for other sounds: any other sound {outcome} one of these"
    below = [name for name, row in rows.items() if _is_below(row.get("f1_interval"), measured["macro_f1"])]
    worst = sorted(below, key=lambda name: rows[name]["f1"])[:MOST]
    few = {name: row["recordings"] for name, row in rows.items() if row["recordings"] <= FEW_RECORDINGS}
    lists = {
        "Weakest classes by F1": [f"{name} {score(rows[name]['f1'], rows[name]['f1_interval'])}" for name in worst],
        "Most frequent confusions": _confusions(np.array(measured["confusion_matrix"]), rows),
        f"Tested on {FEW_RECORDINGS} recordings or fewer, so their scores are unreliable":
            [f"{name} ({count})" for name, count in few.items()],
    }  # fmt: skip
    sentences = [f"{title}: {', '.join(names)}." for title, names in lists.items() if names]
    return [f"{closed}, sometimes with a high score.", *sentences, *_conditions(measured), _calibration(measured)]


def _is_below(interval: Sequence[float] | None, overall: float) -> bool:
    """Whether a score is below that of all clips by more than chance: its interval is."""
    return interval is not None and interval[1] < overall


def _confusions(counts: np.ndarray, rows: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The most frequent confusions; `counts` is `(classes, classes)`, a row per true class."""
    wrong, names = counts - np.diag(np.diag(counts)), list(rows)
    pairs = [np.unravel_index(at, wrong.shape) for at in np.argsort(-wrong, axis=None, kind="stable")[:MOST]]
    return [
        f"{names[true]} as {names[predicted]} ({wrong[true, predicted]} of {rows[names[true]]['support']} clips)"
        for true, predicted in pairs
        if wrong[true, predicted]
    ]


def _conditions(measured: Mapping[str, Any]) -> Iterator[str]:
    """The worst condition of each kind, if its accuracy is below that of all clips."""
    for kind in ("length", "salience"):
        name, row = min(measured[f"by_{kind}"].items(), key=lambda item: item[1]["accuracy"], default=("", None))
        if row and _is_below(row.get("accuracy_interval"), measured["accuracy"]):
            own, overall = (score(of["accuracy"], of["accuracy_interval"]) for of in (row, measured))
            yield f"Clips of {kind} “{name}”: accuracy {own} over {row['clips']:,} clips, against {overall} overall."


def _calibration(measured: Mapping[str, Any]) -> str:
    if "mean_average_precision" in measured:
        return f"The expected calibration error of its scores, label by label, is {measured['ece']:.3f}."
    diagram = measured["reliability"]
    bins = [pair for pair in zip(diagram["counts"], diagram["confidence"], strict=True) if pair[0]]
    confidence = sum(count * mean for count, mean in bins) / sum(count for count, _ in bins)
    gap = confidence - measured["accuracy"]
    verdict = "calibrated on average" if abs(gap) < CALIBRATED else "too high" if gap > 0 else "too low"
    return (
        f"Its scores are {verdict}: the mean confidence is {confidence:.2f} at an accuracy of "
        f"{measured['accuracy']:.2f} (expected calibration error {measured['ece']:.3f})."
    )


CORE_WATTS, GPU_WATTS = 10, 300
"""Assumed power, as none was measured: a server's core under load, and a typical data-centre GPU."""


def training_facts(metrics: Mapping[str, Any], receipt: Mapping[str, Any], model_type: str) -> dict[str, Any]:
    """The card's section on the training: initial weights, length, hardware, an estimate of energy, the command."""
    config, machine, base = receipt["config"], receipt["environment"]["hardware"], receipt["model"]["base_model"]
    start = f"[{base}](https://huggingface.co/{base})" if base else "a local checkpoint"
    scratch = receipt["model"]["from_scratch"]
    gpus = [] if config["use_cpu"] else receipt["gpus"]
    devices = max(receipt["processes"], len(gpus))  # a single process splits its batches over all GPUs
    clips = config.get("train_batch_size") or (
        config["per_device_train_batch_size"] * devices * config["gradient_accumulation_steps"]
    )
    length = f"{config['max_steps']:,} updates" if config["max_steps"] > 0 else f"{config['num_train_epochs']:g} epochs"
    batch = f"{clips} clips of {config['clip_seconds']:g} s per update"
    count, watts, part = (len(gpus), GPU_WATTS, "GPU") if gpus else (machine["cores"] or 1, CORE_WATTS, "core")
    watt_hours = float(f"{metrics['train_seconds'] * count * watts / 3600:.2g}")
    return {
        "origin": "trained from random weights" if scratch else f"fine-tuned from {start}",
        "from_scratch": scratch,
        "recipe": f"{length}, {batch}, learning rate {config['learning_rate']:g}, seed {config['seed']}",
        "hardware": f"{counted(count, 'GPU' if gpus else 'CPU core')} "
        f"({', '.join(dict.fromkeys(gpus)) or machine['cpu']})",
        "energy": f"about {watt_hours:,g} Wh, an estimate that assumes {watts} W per {part} and ignores the rest",
        "command": command(receipt, f"outputs/{model_type}"),
    }


def command(receipt: Mapping[str, Any], output_dir: str) -> str:
    """The command that repeats the run: every flag that matters and differs from its default, a line each.

    MODEL_FOLDER and DATA_FOLDER stand for folders of the machine that it ran on.
    """
    launch = f"accelerate launch --num_processes {receipt['processes']} -m urbansound_hf train"
    lines, changed = [launch if receipt["processes"] > 1 else "urbansound-hf train"], dict(receipt["changed_flags"])
    if not (receipt["model"]["base_model"] or receipt["model"]["from_scratch"]):
        changed["model_name_or_path"] = "MODEL_FOLDER"
    if receipt["config"]["dataset"] not in ("urbansound8k", "synthetic") and not receipt["data"].get("hub_dataset"):
        changed["dataset"] = "DATA_FOLDER"
    for name, value in {**changed, "output_dir": output_dir}.items():
        texts = [str(value).lower() if isinstance(value, bool) else str(value)]
        texts = [str(each) for each in value] if isinstance(value, list) else texts
        lines.append(shlex.join([f"--{name}", *(name.upper() if expand_user(t).is_absolute() else t for t in texts)]))
    return " \\\n  ".join(lines)
