#!/bin/bash
# A folder or a manifest over 16 tasks of a SLURM array, each its own Parquet file. A task that was killed goes on after
# its last finished sound when it is submitted again, or requeued by SLURM: labels-00003-of-00016.parquet.part is kept.
#
#   sbatch examples/slurm_array.sh MODEL SOUNDS.txt OUTPUT_DIR      (a path or an address a line)
#SBATCH --job-name=sounds
#SBATCH --array=1-16
#SBATCH --cpus-per-task=8
#SBATCH --gpus-per-task=1
#SBATCH --time=04:00:00
#SBATCH --requeue
set -euo pipefail
model=$1 manifest=$2 output=$3
mkdir -p "$output"
urbansound-hf infer --manifest "$manifest" --model "$model" --shard "$SLURM_ARRAY_TASK_ID/$SLURM_ARRAY_TASK_COUNT" \
    --output "$output/labels.parquet" --resume --quiet
