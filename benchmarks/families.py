"""Every family that has weights here or trains from nothing, on real clips: folds 1 and 2 train, fold 3 tests.

    python -m benchmarks.families --data_dir DIR --whisper DIR --yamnet DIR [--outputs DIR]

trains what is missing, three seeds each, and puts the facts of the receipts into docs/receipts/families.jsonl;
docs/choosing_a_model.md is made from that. `--yamnet` is a folder that `urbansound-hf models yamnet convert`
wrote. The accuracies do not depend on what else the machine does, the seconds do: nothing else should run.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from benchmarks.experiments import BATCH, PROBE, RESIDUAL_CNN, Job, command
from benchmarks.measure import RECEIPTS

FILE = RECEIPTS / "families.jsonl"
SEEDS = (1, 2, 3)
WHISPER = f"--model_name_or_path {{whisper}} --freeze none {BATCH}"
YAMNET = f"--model_name_or_path {{yamnet}} --freeze none {BATCH}"
YAMNET_TUNED = (
    f"{YAMNET} --model_config patch_hop_frames=96 --learning_rate 3e-5 --layer_decay 0.8 --head_learning_rate 3e-3 "
    "--num_train_epochs 8 --lr_scheduler_type cosine --ema_decay 0.99 --label_smoothing_factor 0.1 --augment shift:1"
)
RUNS = {
    "tutorial CNN, MFCC": "configs/cnn.yaml --num_train_epochs 60 --per_device_train_batch_size 32",
    "residual CNN, log-mel": f"{RESIDUAL_CNN} --num_train_epochs 40",
    "ECAPA-TDNN, from nothing": "configs/ecapa_tdnn.yaml --model_name_or_path ecapa-tdnn --num_train_epochs 8",
    "Whisper-tiny, linear probe": f"--model_name_or_path {{whisper}} {PROBE}",
    "Whisper-tiny, 4 s, 2 epochs": f"{WHISPER} --learning_rate 1e-4 --num_train_epochs 2",
    "Whisper-tiny, 30 s, 2 epochs": f"{WHISPER} --learning_rate 1e-4 --num_train_epochs 2 --clip_seconds 30",
    "Whisper-tiny, 4 s, 12 epochs": f"{WHISPER} --learning_rate 1e-4 --num_train_epochs 12",
    "YAMNet, linear probe": f"--model_name_or_path {{yamnet}} {PROBE}",
    "YAMNet, fine-tuned": YAMNET_TUNED,
    "YAMNet, fine-tuned at one rate": f"{YAMNET} --learning_rate 1e-3 --num_train_epochs 4",
    "Whisper-tiny, LoRA of rank 8, 4 epochs": f"{WHISPER} --learning_rate 5e-4 --lora_rank 8 --num_train_epochs 4",
}


def jobs(words: dict[str, str]) -> Iterator[Job]:
    """All trainings, a seed after the other; `words` fills in the folders of the weights."""
    data = ("--data_dir", words["data_dir"], "--validation", "none")
    for seed in SEEDS:
        yield from (Job(name, 3, seed, (*text.format(**words).split(), *data)) for name, text in RUNS.items())


def main(argv: Sequence[str] | None = None) -> int:
    return command(argv, __doc__, jobs, FILE)


if __name__ == "__main__":
    raise SystemExit(main())
