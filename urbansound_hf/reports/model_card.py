"""The cards that people meet on the Hub: the README.md of a run's folder and of a pushed data set.

A card is computed from what lies in the run's folder (metrics.json, report.json, run.json, config.json), so that it
can be made again at any time; the words are in templates/.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from huggingface_hub import DatasetCard, DatasetCardData, EvalResult, ModelCard, ModelCardData
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from urbansound_hf.data import urbansound8k
from urbansound_hf.data.leaks import describe_leaks
from urbansound_hf.evaluation.receipts import INCIDENTAL, begun_receipt, read_receipt
from urbansound_hf.evaluation.runs import scope_caution
from urbansound_hf.layout import METRICS, expand_user, finished
from urbansound_hf.reports import markdown
from urbansound_hf.reports.markdown import score

TEMPLATES = Path(__file__).parent / "templates"
CC_BY_NC = "https://creativecommons.org/licenses/by-nc/3.0/"
OWN_LICENCE = "apache-2.0"  # of this project, and so of the sounds that its synthetic data set is made of
SIZES = {1_000: "n<1K", 10_000: "1K<n<10K", 100_000: "10K<n<100K"}  # the Hub's names, below so many rows


def write_card(folder: Path, receipt: Mapping[str, Any] | None = None) -> Path:
    """Writes the card of the run in `folder` as its README.md, with `.` as the model's name; see `render`."""
    path = folder / "README.md"
    path.write_text(render_card(folder, receipt=receipt), encoding="utf-8")
    return path


def render_card(folder: Path, repo_id: str | None = None, receipt: Mapping[str, Any] | None = None) -> str:
    """The card of a run: YAML that the Hub reads, then Markdown for people.

    Args:
        folder: of a run with its report; without a receipt (run.json), the card has nothing on how it was trained.
        repo_id: where it will stand on the Hub, for the snippet and the title.
        receipt: of a run that is just ending, whose run.json is still to be written.
    """
    metrics, measured, config = (_read(folder / name) for name in (METRICS, "report.json", "config.json"))
    if not receipt:
        receipt = read_receipt(folder) if finished(folder) else begun_receipt(folder)
    card = ModelCard.from_template(
        card_metadata(metrics, measured, receipt, config["model_type"], repo_id),
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
        classes=markdown.class_table(measured["per_class"], scope_caution(measured["scope"])),
        how_sure=markdown.HOW_SURE,
        folds=cross_validation(folder, metrics),
        leaks=[line.strip() for line in describe_leaks(metrics["leaks"]).splitlines()] if "leaks" in metrics else [],
        weaknesses=weaknesses(measured),
        urbansound=is_urbansound(metrics["labels"], receipt),
        labels=urbansound8k,
        by_nc=CC_BY_NC,
        **(_training(metrics, receipt, config["model_type"]) if receipt else {}),
    )
    return str(card)


def card_metadata(
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
    dataset = hub_dataset(receipt) if receipt else None
    return ModelCardData(
        library_name="transformers",
        pipeline_tag="audio-classification",
        base_model=base_model(receipt["config"]) if receipt else None,
        datasets=[dataset] if dataset else None,
        metrics=["accuracy", "f1"],
        tags=["audio-classification", *["urbansound8k"] * urbansound, model_type],
        model_name=repo_id or model_type,
        eval_results=card_results(metrics, measured, receipt),
        **(checkpoint_licence(urbansound, receipt) if receipt else {}),
    )


def card_results(
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


def checkpoint_licence(urbansound: bool, receipt: Mapping[str, Any]) -> dict[str, Any]:
    """The terms that a checkpoint carries, as far as they are known; nothing where they are not.

    Whether weights are an adaptation of the recordings they learned from is not settled, so the careful reading is
    taken: the non-commercial terms of UrbanSound8K hold for them too. The terms of a base model come on top, and are
    not known here; with those there is no identifier for both, but `other` with a name and a link.
    """
    base, scratch = base_model(receipt["config"]), from_scratch(receipt["config"])
    if not urbansound and receipt["data"]["name"] != "synthetic":
        return {}  # the terms of these data are not known here
    if scratch:
        return {"license": urbansound8k.LICENCE_ID if urbansound else OWN_LICENCE}
    if not (urbansound or base):
        return {}  # all is up to a base model that has no name
    name = f"{urbansound8k.LICENCE_ID}-and-base-model" if urbansound else "base-model"
    link = CC_BY_NC if urbansound else f"https://huggingface.co/{base}"
    return {"license": "other", "license_name": name, "license_link": link}


def is_urbansound(names: Sequence[str], receipt: Mapping[str, Any] | None) -> bool:
    """Whether the data are UrbanSound8K's, from wherever they came; the synthetic ones only borrow its classes."""
    return tuple(names) == urbansound8k.CLASSES and not (receipt and receipt["data"]["name"] == "synthetic")


def packages(folder: Path) -> str:
    """What to install for the snippet: torchaudio resamples in the pipeline; some models' code needs more."""
    code = "\n".join(path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.py")))
    asked = re.findall(r"""(?:^(?:from|import) |import_module\(f?["'])(speechbrain)\b""", code, re.MULTILINE)
    return " ".join(["transformers", "torch", "torchaudio", "soundfile", *dict.fromkeys(asked)])


def cross_validation(folder: Path, metrics: Mapping[str, Any]) -> dict[str, Any]:
    """The folds of the experiment that this run is one of, if they were gathered: a table, mean and scope; else {}."""
    path = folder.absolute().parent / METRICS
    gathered = _read(path) if path.is_file() else {}
    key = ("test_fold", "test_accuracy")
    if not any(all(fold[name] == metrics[name] for name in key) for fold in gathered.get("folds", [])):
        return {}
    accuracy, macro_f1 = (
        markdown.spread(gathered[f"mean_{name}"], gathered[f"std_{name}"]) for name in ("accuracy", "macro_f1")
    )
    table = markdown.fold_table(gathered["folds"], scope_caution(gathered["scope"]))
    return {"table": table, "accuracy": accuracy, "macro_f1": macro_f1, "scope": gathered["scope"]}


def _training(metrics: Mapping[str, Any], receipt: Mapping[str, Any], model_type: str) -> dict[str, str]:
    base = base_model(receipt["config"])
    origin = (
        f"fine-tuned from [{base}](https://huggingface.co/{base})" if base else "fine-tuned from a local checkpoint"
    )
    if from_scratch(receipt["config"]):
        origin = "trained from random weights"
    return {
        "origin": origin,
        "recipe": recipe(receipt),
        "hardware": hardware(receipt),
        "energy": energy(receipt, metrics["train_seconds"]),
        "command": command(receipt, f"outputs/{model_type}"),
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


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


MOST = 3  # classes, or confusions, that are named
FEW_RECORDINGS = 5  # of so many or fewer, a class's score says little: one more could turn it over
OFF = 0.02  # mean score less accuracy; closer is called right


def weaknesses(measured: Mapping[str, Any]) -> list[str]:
    """What a report (the content of report.json) shows to be weak, and what no report can show."""
    names = measured["labels"]
    closed = (
        f"It knows {len(names)} kinds of sound and no “none of them”: anything else gets one of these names too, "
        "sometimes with a high score."
    )
    return [closed, *_classes(measured), *_confusions(names, np.array(measured["confusion_matrix"])),
            *_conditions(measured), _calibration(measured), *_hardly_tested(measured["per_class"])]  # fmt: skip


def _classes(measured: Mapping[str, Any]) -> Iterator[str]:
    below = {name: row for name, row in measured["per_class"].items() if row["f1"] < measured["macro_f1"]}
    worst = sorted(below.items(), key=lambda item: item[1]["f1"])[:MOST]
    told = [f"{name} {score(row['f1'], row['f1_interval'])}" for name, row in worst]
    if told:
        yield f"Weakest classes, by F1: {', '.join(told)}."


def _confusions(names: Sequence[str], counts: np.ndarray) -> Iterator[str]:
    """`counts` is `(classes, classes)`, a row a true class."""
    wrong = counts - np.diag(np.diag(counts))
    pairs = [np.unravel_index(at, wrong.shape) for at in np.argsort(-wrong, axis=None, kind="stable")[:MOST]]
    told = [
        f"{names[true]} for {names[taken]} ({wrong[true, taken]} of {counts[true].sum()} clips)"
        for true, taken in pairs
        if wrong[true, taken]
    ]
    if told:
        yield f"What it takes for what: {', '.join(told)}."


def _conditions(measured: Mapping[str, Any]) -> Iterator[str]:
    """Of every kind of condition the worst, if it lies below the whole."""
    for kind, rows in (("length", measured["by_length"]), ("salience", measured["by_salience"])):
        name, row = min(rows.items(), key=lambda item: item[1]["accuracy"], default=("", None))
        if row and row["accuracy"] < measured["accuracy"]:
            found = score(row["accuracy"], row["accuracy_interval"])
            whole = score(measured["accuracy"], measured["accuracy_interval"])
            yield f"Clips of {kind} “{name}”: accuracy {found} over {row['clips']:,} of them, against {whole} over all."


def _calibration(measured: Mapping[str, Any]) -> str:
    diagram = measured["reliability"]
    bins = [pair for pair in zip(diagram["counts"], diagram["confidence"], strict=True) if pair[0]]
    confidence = sum(count * mean for count, mean in bins) / sum(count for count, _ in bins)
    off = confidence - measured["accuracy"]
    verdict = "right on average" if abs(off) < OFF else "too high" if off > 0 else "too low"
    return (
        f"Its scores are {verdict}: {confidence:.2f} in the mean, where {measured['accuracy']:.2f} of the clips are "
        f"recognised (expected calibration error {measured['ece']:.3f})."
    )


def _hardly_tested(per_class: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    few = [f"{name} ({row['recordings']})" for name, row in per_class.items() if row["recordings"] <= FEW_RECORDINGS]
    if few:
        yield f"Tested on {FEW_RECORDINGS} recordings or fewer, whatever the score: {', '.join(few)}."


CORE_WATTS, GPU_WATTS = 10, 300
"""Assumed, as nobody measured: a server's core under load, and a GPU between a workstation's and the largest."""

WORKED_OUT = frozenset({
    "accelerator_config", "greater_is_better", "do_train", "do_eval", "do_predict", "hub_strategy", "hub_always_push",
    "include_num_input_tokens_seen",
})  # fmt: skip
"""Values of `TrainingArguments` that follow from the others, or from nothing that was asked for."""
CHOICE = frozenset({"eval_strategy", "load_best_model_at_end", "metric_for_best_model"})  # of a checkpoint


def base_model(config: Mapping[str, Any]) -> str | None:
    """The Hub id of the model that training started from; None for random weights and for a local folder.

    The run's files do not say which one a name such as `models/yamnet` is: it is a folder where it is one here.
    """
    name = config["model_name_or_path"]
    return name if _is_hub_id(name) and not Path(name).is_dir() else None


def from_scratch(config: Mapping[str, Any]) -> bool:
    """Whether training started from random weights."""
    from urbansound_hf.models.loading import starts_from_config
    from urbansound_hf.models.registry import register  # torch, which reading a report does without

    register()
    return starts_from_config(config["model_name_or_path"])


def hub_dataset(receipt: Mapping[str, Any]) -> str | None:
    """The Hub id of the data; of a local folder, the receipt's name is the folder's alone."""
    name = receipt["data"]["name"]
    return name if name == receipt["config"]["dataset"] and _is_hub_id(name) else None


def _is_hub_id(name: str) -> bool:
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return name.count("/") == 1


def command(receipt: Mapping[str, Any], output_dir: str) -> str:
    """What repeats the run: every flag that matters and differs from its default, a line each.

    MODEL_FOLDER and DATA_FOLDER stand for folders of the machine that it ran on.
    """
    config = dict(receipt["config"])
    if not (base_model(config) or from_scratch(config)):
        config["model_name_or_path"] = "MODEL_FOLDER"
    if config["dataset"] not in ("urbansound8k", "synthetic") and not hub_dataset(receipt):
        config["dataset"] = "DATA_FOLDER"
    processes = receipt["processes"]
    launch = f"accelerate launch --num_processes {processes} -m urbansound_hf train"
    start = launch if processes > 1 else "urbansound-hf train"
    flags = {**changed(config), "output_dir": output_dir}
    return " \\\n  ".join([start, *(shlex.join([f"--{name}", *_words(name, flags[name])]) for name in flags)])


def changed(config: Mapping[str, Any]) -> dict[str, Any]:
    """The flags that decide what is learned and tested, where they differ from their defaults."""
    from urbansound_hf.config.flags import FlagParser
    from urbansound_hf.config.parse import SCHEMA  # torch, as above

    defaults = vars(FlagParser(SCHEMA).parse_args([]))
    silent = (INCIDENTAL | WORKED_OUT | (CHOICE if config["validation"] == "none" else set())) - {
        "dataset",
        "test_fold",
    }
    return {
        name: value
        for name, value in config.items()
        if name not in silent and value != (default := defaults.get(name))
        if value or default or name == "bf16"  # off is off, but for bf16: absent, the hardware decides
    }


def _words(name: str, value: Any) -> list[str]:
    if isinstance(value, bool):
        return [str(value).lower()]
    texts = map(str, value if isinstance(value, list) else [value])
    return [name.upper() if expand_user(text).is_absolute() else text for text in texts]


def recipe(receipt: Mapping[str, Any]) -> str:
    """The few numbers that people ask for first, in a line."""
    config = receipt["config"]
    devices = max(receipt["processes"], len(_gpus(receipt)))  # a single process shares its batches among all GPUs
    each, steps = config["per_device_train_batch_size"] * devices, config["gradient_accumulation_steps"]
    length = f"{config['max_steps']:,} updates" if config["max_steps"] > 0 else f"{config['num_train_epochs']:g} epochs"
    batch = f"{each * steps} clips of {config['clip_seconds']:g} s an update"
    return f"{length}, {batch}, learning rate {config['learning_rate']:g}, seed {config['seed']}"


def hardware(receipt: Mapping[str, Any]) -> str:
    """What it ran on: "2 cores (Intel …)", or "2 GPUs (NVIDIA …)"."""
    gpus, machine = _gpus(receipt), receipt["environment"]["hardware"]
    if gpus:
        return f"{_count(len(gpus), 'GPU')} ({', '.join(dict.fromkeys(gpus))})"
    return f"{_count(machine['cores'] or 1, 'CPU core')} ({machine['cpu']})"


def energy(receipt: Mapping[str, Any], train_seconds: float) -> str:
    """An estimate of the energy that training took, with what was assumed for it."""
    gpus = _gpus(receipt)
    count, watts, part = len(gpus), GPU_WATTS, "GPU"
    if not gpus:
        count, watts, part = receipt["environment"]["hardware"]["cores"] or 1, CORE_WATTS, "core"
    watt_hours = float(f"{train_seconds * count * watts / 3600:.2g}")
    return f"about {watt_hours:,g} Wh, an estimate that assumes {watts} W for each {part} and nothing for the rest"


def _gpus(receipt: Mapping[str, Any]) -> Sequence[str]:
    return [] if receipt["config"]["use_cpu"] else receipt["gpus"]


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number != 1)}"
