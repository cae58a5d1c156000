#!/bin/bash
# Sounds of a Hub data set on Hugging Face Jobs: four machines, each its own Parquet file in a bucket of yours.
# The same command again goes on after the last finished sound of each part.
#
#   examples/hf_jobs.sh OWNER/MODEL OWNER/DATASET OWNER/BUCKET      (hf auth login first; hf jobs hardware lists flavors)
set -euo pipefail
model=$1 dataset=$2 bucket=$3 parts=4
for part in $(seq 1 "$parts"); do
    hf jobs run --detach --flavor t4-small --timeout 4h --secrets HF_TOKEN \
        --volume "hf://datasets/$dataset:/sounds:ro" --volume "hf://buckets/$bucket:/results" python:3.12 \
        bash -c "pip install -q urbansound-hf && urbansound-hf infer /sounds --model $model --shard $part/$parts --output /results/labels.parquet --resume --quiet"
done
