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
from urbansound_hf.evaluation.runs import Run, scope_caution
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
        card_metadata(metrics, measured, receipt, config["model_type"], repo_id),
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
        scores=markdown.scores(measured),
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
        **(_training(metrics, receipt, config["model_type"]) if receipt else {}),
    )
    return redacted(str(card))


def card_metadata(
    metrics: Mapping[str, Any],
    measured: Mapping[str, Any],
    receipt: Mapping[str, Any] | None,
    model_type: str,
    repo_id: str | None = None,
) -> ModelCardData:
    """The metadata that the Hub reads: library, base model, data, licence, and scores with their protocol.

    `datasets` is the Hub id of the training data if they came from the Hub. UrbanSound8K itself has no official id.
    """
    urbansound = is_urbansound(metrics["labels"], receipt)
    dataset = receipt["data"].get("hub_dataset") if receipt else None
    return ModelCardData(
        library_name="transformers",
        pipeline_tag="audio-classification",
        base_model=origin_of(receipt).get("base_model"),
        datasets=[dataset] if dataset else None,
        metrics=[each.hub_type for each in present_metrics(measured) if each.hub_type],
        tags=["audio-classification", *["urbansound8k"] * urbansound, model_type],
        model_name=repo_id or model_type,
        eval_results=card_results(metrics, measured, receipt),
        **(checkpoint_licence(urbansound, receipt) if receipt else {}),
    )


def card_results(
    metrics: Mapping[str, Any], measured: Mapping[str, Any], receipt: Mapping[str, Any] | None
) -> list[EvalResult]:
    """The metrics that the Hub has a name for; data set's name and split state the protocol."""
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
    return [
        EvalResult(
            metric_type=each.hub_type,
            metric_name=each.title[0].upper() + each.title[1:],
            metric_value=measured[each.name],
            **protocol,
        )
        for each in present_metrics(measured)
        if each.hub_type
    ]


def checkpoint_licence(urbansound: bool, receipt: Mapping[str, Any]) -> dict[str, Any]:
    """The licence of a checkpoint as metadata; empty where the licence of the data or of the base model is unknown.

    Whether weights are an adaptation of the recordings that they were trained on is not settled. The card takes the
    careful reading: the non-commercial licence of UrbanSound8K applies to the weights too. The licence of a base model
    applies as well and is not known here; the Hub has no identifier for both, so the licence is `other`.
    """
    origin = origin_of(receipt)
    base, scratch = origin.get("base_model"), origin.get("from_scratch", False)
    if not urbansound and receipt["data"]["name"] != "synthetic":
        return {}
    if scratch:
        return {"license": urbansound8k.LICENCE_ID if urbansound else OWN_LICENCE}
    if not (urbansound or base):
        return {}
    name = f"{urbansound8k.LICENCE_ID}-and-base-model" if urbansound else "base-model"
    link = CC_BY_NC if urbansound else f"https://huggingface.co/{base}"
    return {"license": "other", "license_name": name, "license_link": link}


def is_urbansound(names: Sequence[str], receipt: Mapping[str, Any] | None) -> bool:
    """Whether the data are UrbanSound8K's, from any source; the synthetic data have the same classes and are not."""
    return tuple(names) == urbansound8k.CLASSES and not (receipt and receipt["data"]["name"] == "synthetic")


def packages(folder: Path) -> str:
    """The packages that the snippet needs: torchaudio resamples in the pipeline; the code of some models needs more."""
    code = "\n".join(path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.py")))
    imported = re.findall(r"""(?:^(?:from|import) |import_module\(f?["'])(speechbrain)\b""", code, re.MULTILINE)
    return " ".join(["transformers", "torch", "torchaudio", "soundfile", *dict.fromkeys(imported)])


def cross_validation(folder: Path, metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Table, mean scores and scope of the cross-validation that the run belongs to; empty if none was gathered."""
    parent = folder.absolute().parent
    gathered = Run(parent).metrics if (parent / METRICS).is_file() else {}
    key = ("test_fold", "test_accuracy")
    if not any(all(fold[name] == metrics[name] for name in key) for fold in gathered.get("folds", [])):
        return {}
    table = markdown.fold_table(gathered["folds"], scope_caution(gathered["scope"]))
    return {"table": table, "scores": markdown.spreads(gathered), "scope": gathered["scope"]}


def origin_of(receipt: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """`base_model` (a Hub id or None) and `from_scratch` of the initial weights; empty if they are not recorded."""
    return (receipt or {}).get("model", {})


def _training(metrics: Mapping[str, Any], receipt: Mapping[str, Any], model_type: str) -> dict[str, Any]:
    origin = origin_of(receipt)
    base, scratch = origin["base_model"], origin["from_scratch"]
    start = f"fine-tuned from [{base}](https://huggingface.co/{base})" if base else "fine-tuned from a local checkpoint"
    start = "trained from random weights" if scratch else start
    return {
        "origin": start,
        "from_scratch": scratch,
        "recipe": recipe(receipt),
        "hardware": hardware(receipt),
        "energy": energy(receipt, metrics["train_seconds"]),
        "command": command(receipt, f"outputs/{model_type}"),
    }


def data_card(repo_id: str, rows: int, table: str, notes: Sequence[str], sampling_rate: int, credits: bool) -> str:
    """Renders the card of UrbanSound8K as this project pushes it.

    Args:
        rows: the number of clips.
        table: the number of clips of each class and fold, as Markdown.
        notes: cautions that every score from these clips must carry, such as that they are a subset.
        sampling_rate: of the stored sounds, in Hz.
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
    names = [in_markdown(name) for name in measured["labels"]]
    outcome = "may be given" if "mean_average_precision" in measured else "is assigned to"
    closed = (
        f"It has {len(names)} classes and no class for other sounds: any other sound {outcome} one of these, "
        "sometimes with a high score."
    )
    clips = [row["support"] for row in measured["per_class"].values()]
    return [closed, *_classes(measured), *_confusions(names, np.array(measured["confusion_matrix"]), clips),
            *_conditions(measured), _calibration(measured), *_hardly_tested(measured["per_class"])]  # fmt: skip


def _classes(measured: Mapping[str, Any]) -> Iterator[str]:
    rows = measured["per_class"].items()
    below = {name: row for name, row in rows if _is_below(row.get("f1_interval"), measured["macro_f1"])}
    worst = sorted(below.items(), key=lambda item: item[1]["f1"])[:MOST]
    shown = [f"{in_markdown(name)} {score(row['f1'], row['f1_interval'])}" for name, row in worst]
    if shown:
        yield f"Weakest classes by F1: {', '.join(shown)}."


def _is_below(interval: Sequence[float] | None, overall: float) -> bool:
    """Whether a score is below that of all clips by more than chance: its interval is."""
    return interval is not None and interval[1] < overall


def _confusions(names: Sequence[str], counts: np.ndarray, clips: Sequence[int]) -> Iterator[str]:
    """The most frequent confusions; `counts` is `(classes, classes)`, a row per true class; `clips`: those of each."""
    wrong = counts - np.diag(np.diag(counts))
    pairs = [np.unravel_index(at, wrong.shape) for at in np.argsort(-wrong, axis=None, kind="stable")[:MOST]]
    shown = [
        f"{names[true]} as {names[predicted]} ({wrong[true, predicted]} of {clips[true]} clips)"
        for true, predicted in pairs
        if wrong[true, predicted]
    ]
    if shown:
        yield f"Most frequent confusions: {', '.join(shown)}."


def _conditions(measured: Mapping[str, Any]) -> Iterator[str]:
    """The worst condition of each kind, if its accuracy is below that of all clips."""
    for kind, rows in (("length", measured["by_length"]), ("salience", measured["by_salience"])):
        name, row = min(rows.items(), key=lambda item: item[1]["accuracy"], default=("", None))
        if row and _is_below(row.get("accuracy_interval"), measured["accuracy"]):
            own = score(row["accuracy"], row["accuracy_interval"])
            overall = score(measured["accuracy"], measured["accuracy_interval"])
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


def _hardly_tested(per_class: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    recordings = {in_markdown(name): row["recordings"] for name, row in per_class.items()}
    few = [f"{name} ({count})" for name, count in recordings.items() if count <= FEW_RECORDINGS]
    if few:
        yield f"Tested on {FEW_RECORDINGS} recordings or fewer, so their scores are unreliable: {', '.join(few)}."


CORE_WATTS, GPU_WATTS = 10, 300
"""Assumed power, as none was measured: a server's core under load, and a typical data-centre GPU."""


def command(receipt: Mapping[str, Any], output_dir: str) -> str:
    """The command that repeats the run: every flag that matters and differs from its default, a line each.

    MODEL_FOLDER and DATA_FOLDER stand for folders of the machine that it ran on.
    """
    origin, config, processes = origin_of(receipt), receipt["config"], receipt["processes"]
    launch = f"accelerate launch --num_processes {processes} -m urbansound_hf train"
    start = launch if processes > 1 else "urbansound-hf train"
    changed = dict(receipt["changed_flags"])
    if not (origin.get("base_model") or origin.get("from_scratch")):
        changed["model_name_or_path"] = "MODEL_FOLDER"
    if config["dataset"] not in ("urbansound8k", "synthetic") and not receipt["data"].get("hub_dataset"):
        changed["dataset"] = "DATA_FOLDER"
    flags = {**changed, "output_dir": output_dir}
    return " \\\n  ".join([start, *(shlex.join([f"--{name}", *_words(name, flags[name])]) for name in flags)])


def _words(name: str, value: Any) -> list[str]:
    if isinstance(value, bool):
        return [str(value).lower()]
    texts = map(str, value if isinstance(value, list) else [value])
    return [name.upper() if expand_user(text).is_absolute() else text for text in texts]


def recipe(receipt: Mapping[str, Any]) -> str:
    """Length, batch size, learning rate and seed of the training in a line."""
    config = receipt["config"]
    devices = max(receipt["processes"], len(_gpus(receipt)))  # a single process splits its batches over all GPUs
    clips = config.get("train_batch_size") or (
        config["per_device_train_batch_size"] * devices * config["gradient_accumulation_steps"]
    )
    length = f"{config['max_steps']:,} updates" if config["max_steps"] > 0 else f"{config['num_train_epochs']:g} epochs"
    batch = f"{clips} clips of {config['clip_seconds']:g} s per update"
    return f"{length}, {batch}, learning rate {config['learning_rate']:g}, seed {config['seed']}"


def hardware(receipt: Mapping[str, Any]) -> str:
    """The hardware of the training: "2 CPU cores (Intel …)", or "2 GPUs (NVIDIA …)"."""
    gpus, machine = _gpus(receipt), receipt["environment"]["hardware"]
    if gpus:
        return f"{counted(len(gpus), 'GPU')} ({', '.join(dict.fromkeys(gpus))})"
    return f"{counted(machine['cores'] or 1, 'CPU core')} ({machine['cpu']})"


def energy(receipt: Mapping[str, Any], train_seconds: float) -> str:
    """An estimate of the energy of the training, with its assumptions."""
    gpus = _gpus(receipt)
    count, watts, part = len(gpus), GPU_WATTS, "GPU"
    if not gpus:
        count, watts, part = receipt["environment"]["hardware"]["cores"] or 1, CORE_WATTS, "core"
    watt_hours = float(f"{train_seconds * count * watts / 3600:.2g}")
    return f"about {watt_hours:,g} Wh, an estimate that assumes {watts} W per {part} and ignores the rest"


def _gpus(receipt: Mapping[str, Any]) -> Sequence[str]:
    return [] if receipt["config"]["use_cpu"] else receipt["gpus"]
