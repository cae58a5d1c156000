"""Many trainings, each done once, and the few facts of their receipts that a table is made of.

The tables of docs/ come from such facts, committed in docs/receipts/; the scripts beside this one list the trainings.
"""

from __future__ import annotations

import argparse
import json
import re
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from benchmarks.measure import ROOT
from urbansound_hf.config.parse import parse_run_config
from urbansound_hf.evaluation.runs import read_run
from urbansound_hf.layout import finished
from urbansound_hf.training.cross_validation import run_experiment

DEFAULTS = ROOT / "configs" / "wav2vec2_base.yaml"  # as in train.py
BATCH = "--per_device_train_batch_size 32 --gradient_accumulation_steps 1"
PROBE = f"--freeze backbone --learning_rate 3e-3 --num_train_epochs 40 {BATCH}"
RESIDUAL_CNN = (
    "--model_name_or_path cnn --model_config architecture=residual hidden_sizes=[16,32,64,128] "
    "--feature_extractor_config feature=log_mel n_mels=64 n_fft=1024 num_frames=174 scaling=per_clip --freeze none "
    f"--learning_rate 3e-3 --lr_scheduler_type cosine --weight_decay 0.05 --bf16 false {BATCH}"
)
"""Recipes are written out: the shipped configs change with what is learnt from these trainings."""


@dataclass(frozen=True)
class Job:
    """One training: what a table calls it, its test fold and seed, and the words that follow `train.py`.

    Args:
        fold: 0 for a random split.
    """

    name: str
    fold: int
    seed: int
    words: tuple[str, ...]

    @property
    def key(self) -> str:
        return f"{self.name.replace(' ', '_')}-fold{self.fold}-seed{self.seed}"

    def folder(self, outputs: Path) -> Path:
        return outputs / self.key

    def run_folder(self, outputs: Path) -> Path:
        """Where the run itself lies; a split without folds has a name of its own."""
        return self.folder(outputs) / (f"fold{self.fold}" if self.fold else "random")

    def argv(self, outputs: Path) -> list[str]:
        own = {"seed": self.seed, "output_dir": self.folder(outputs), "disable_tqdm": True}
        own |= {"test_fold": self.fold} if self.fold else {"split": "random"}
        return [*self.words, *(word for name, value in own.items() for word in (f"--{name}", str(value)))]


def run(jobs: Iterable[Job], outputs: Path) -> int:
    """Trains what is neither finished nor in another process's hands, one after another; returns how many failed.

    The same command, given several times, so shares its trainings out among as many processes.
    """
    failed = 0
    outputs.mkdir(parents=True, exist_ok=True)
    for job in jobs:
        try:
            with FileLock(outputs / f".{job.key}.lock", timeout=0):
                if not finished(job.run_folder(outputs)):
                    failed += run_experiment(parse_run_config(job.argv(outputs), DEFAULTS)) != 0
        except Timeout:
            continue
        except Exception:  # of any kind: the other trainings do not depend on this one
            traceback.print_exc()
            failed += 1
    return failed


def gather(jobs: Iterable[Job], outputs: Path) -> list[dict[str, Any]]:
    """A row for each finished job; `correct` has one character a test clip, in the order of their names."""
    return [_row(job, folder) for job in jobs if finished(folder := job.run_folder(outputs))]


def _row(job: Job, folder: Path) -> dict[str, Any]:
    found = read_run(folder)
    receipt = found.receipt or {}
    order = found.predictions.paths.argsort()
    facts = ("parameters", "trained_parameters", "train_seconds", "train_clips_per_second", "train_peak_memory_gib")
    return {
        "name": job.name,
        "fold": job.fold,
        "seed": job.seed,
        "accuracy": found.metrics["test_accuracy"],
        "macro_f1": found.metrics["test_macro_f1"],
        **{fact: found.metrics[fact] for fact in facts},
        "resampler": receipt["data"].get("resampler"),
        "hardware": (receipt["gpus"] or [receipt["environment"]["hardware"]["cpu"]])[0],
        "code": receipt["environment"]["code"]["source"],  # the hash of the package's modules
        "correct": "".join("01"[int(right)] for right in found.predictions.correct[order]),
        "groups": found.predictions.groups[order].tolist(),
    }


def save(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Adds rows to a file of receipts; one of the same name, fold and seed is replaced. One row a line."""
    known = {(row["name"], row["fold"], row["seed"]): row for row in [*load(path), *rows]}
    path.parent.mkdir(parents=True, exist_ok=True)
    recordings = {row["fold"]: row["groups"] for row in known.values() if "groups" in row and row["fold"]}
    lines = [json.dumps({key: value for key, value in row.items() if key != "groups"}) for row in known.values()]
    path.write_text("".join(f"{line}\n" for line in sorted(lines)), encoding="utf-8")
    for fold, groups in recordings.items():
        path.with_name(f"fold{fold}.json").write_text(json.dumps(groups) + "\n", encoding="utf-8")


def load(path: Path) -> list[dict[str, Any]]:
    """The rows of a file of receipts; none where there is no file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.is_file() else []


def command(
    argv: Sequence[str] | None, about: str, jobs_of: Callable[[dict[str, str]], Iterable[Job]], path: Path
) -> int:
    """The command line of a script that lists trainings; returns the exit code (1: some failed).

    Args:
        jobs_of: the trainings, most wanted first, given the folders of data and weights by the name of their flag.
        path: the file of receipts that it adds to.
    """
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("data_dir", "whisper", "yamnet"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--outputs", type=Path, default=Path("outputs") / path.stem)
    parser.add_argument("--only", default="", help="a regular expression: trainings in whose name it is found")
    parser.add_argument("--seeds", type=int, help="only the seeds up to this one")
    args = parser.parse_args(argv)
    wanted = [
        job for job in jobs_of(vars(args)) if re.search(args.only, job.name) and job.seed <= (args.seeds or job.seed)
    ]
    failed = run(wanted, args.outputs)
    save(path, gather(wanted, args.outputs))
    return 1 if failed else 0
