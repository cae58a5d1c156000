"""Every family that has weights here or trains from nothing, on real clips: folds 1 and 2 train, fold 3 tests.

    python benchmarks/families.py --data_dir DIR --whisper DIR --yamnet DIR [--outputs DIR]

trains what is missing, three seeds each, and puts the facts of the receipts into docs/receipts/families.jsonl;
docs/choosing_a_model.md is made from that. `--yamnet` is a folder that `python -m urbansound_hf.models.yamnet convert`
wrote. The accuracies do not depend on what else the machine does, the seconds do: nothing else should run.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from experiments import RECEIPTS, Job, gather, run, save

FILE = RECEIPTS / "families.jsonl"
SEEDS = (1, 2, 3)
BATCH = "--per_device_train_batch_size 32 --gradient_accumulation_steps 1"
PROBE = f"--freeze backbone --num_train_epochs 40 --learning_rate 3e-3 {BATCH}"
WHISPER = "configs/whisper_tiny.yaml --model_name_or_path {whisper} --learning_rate 1e-4"
WHISPER_LORA = "configs/whisper_tiny.yaml --model_name_or_path {whisper} --learning_rate 5e-4 --lora_rank 8"
YAMNET = f"--model_name_or_path {{yamnet}} --freeze none --learning_rate 1e-3 --num_train_epochs 4 {BATCH}"
RUNS = {
    "tutorial CNN, MFCC": "configs/cnn.yaml --num_train_epochs 60 --per_device_train_batch_size 32",
    "residual CNN, log-mel": "configs/cnn_logmel.yaml --num_train_epochs 40",
    "ECAPA-TDNN, from nothing": "configs/ecapa_tdnn.yaml --model_name_or_path ecapa-tdnn --num_train_epochs 8",
    "Whisper-tiny, linear probe": f"--model_name_or_path {{whisper}} {PROBE}",
    "Whisper-tiny, 4 s, 2 epochs": f"{WHISPER} --num_train_epochs 2",
    "Whisper-tiny, 30 s, 2 epochs": f"{WHISPER} --num_train_epochs 2 --clip_seconds 30",
    "Whisper-tiny, 4 s, 12 epochs": f"{WHISPER} --num_train_epochs 12",
    "YAMNet, linear probe": f"--model_name_or_path {{yamnet}} {PROBE}",
    "YAMNet, fine-tuned": "configs/yamnet.yaml --model_name_or_path {yamnet}",
    "YAMNet, fine-tuned at one rate": YAMNET,
    "Whisper-tiny, LoRA of rank 8, 4 epochs": f"{WHISPER_LORA} --num_train_epochs 4",
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("data_dir", "whisper", "yamnet"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--outputs", type=Path, default=Path("outputs/families"))
    parser.add_argument("--only", default="", help="trainings whose name holds this")
    args = parser.parse_args()
    jobs = [
        Job(name, 3, seed, (*words.format(**vars(args)).split(), "--data_dir", args.data_dir, "--validation", "none"))
        for seed in SEEDS
        for name, words in RUNS.items()
        if args.only in name
    ]
    failed = run(jobs, args.outputs)
    save(FILE, gather(jobs, args.outputs))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
