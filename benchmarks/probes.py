"""What a frozen model tells of street sounds, by depth, level and patches: logistic regression on its embeddings.

    python -m benchmarks.probes --data_dir DIR --whisper DIR --yamnet DIR

Each fold that is there is the test of the others in turn; nothing is left to a seed. The regression is that of
`--probe_first`, so each line is where the fine-tuning of such a model would begin.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from urbansound_hf.data.loading import SoundRequest, Sounds, load_sounds
from urbansound_hf.features.dataset import prepare_features
from urbansound_hf.models.linear_probe import embeddings, regression
from urbansound_hf.models.loading import load_feature_extractor, load_model

VARIANTS = {
    "YAMNet": ("yamnet", {}, {}),
    "YAMNet, patches side by side": ("yamnet", {"patch_hop_frames": 96}, {}),
    "YAMNet, peak at full scale": ("yamnet", {}, {"peak_normalize": True}),
    "YAMNet, peak at full scale, patches side by side": ("yamnet", {"patch_hop_frames": 96}, {"peak_normalize": True}),
    "Whisper, its first layer": ("whisper", {"encoder_layers": 1}, {}),
    "Whisper, its first two layers": ("whisper", {"encoder_layers": 2}, {}),
    "Whisper, its first three layers": ("whisper", {"encoder_layers": 3}, {}),
    "Whisper, all four": ("whisper", {}, {}),
}
"""The folder of weights, and what replaces values of the model's and of the extractor's config."""


def embedded(
    name: str, model_config: Mapping[str, Any], extractor_config: Mapping[str, Any], sounds: Sounds
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of each clip the embedding `(clips, hidden)`, the class and the fold."""
    extractor = load_feature_extractor(name, overrides=extractor_config)
    model = load_model(name, sounds.labels, overrides=model_config)
    rows = embeddings(model, prepare_features(sounds.dataset, extractor, clip_seconds=4.0), batch_size=8)
    rows = rows.select(np.unique(rows["clip"][:], return_index=True)[1])  # of a longer clip the first window
    folds = np.asarray(sounds.dataset["fold"][:])[rows["clip"][:]]
    return rows["embedding"][:], np.asarray(rows["labels"][:]), folds


def rotations(inputs: np.ndarray, labels: np.ndarray, folds: np.ndarray) -> list[float]:
    """The accuracy on each fold, trained on all others."""
    scores = []
    for fold in np.unique(folds):
        train, test = folds != fold, folds == fold
        weight, bias = regression(inputs[train], labels[train], int(labels.max()) + 1)
        scores.append(float(((inputs[test] @ weight.T + bias).argmax(axis=1) == labels[test]).mean()))
    return scores


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("data_dir", "whisper", "yamnet"):
        parser.add_argument(f"--{name}", required=True)
    args = parser.parse_args(argv)
    sounds = load_sounds(SoundRequest(data_dir=args.data_dir))
    print(f"{len(sounds.dataset)} clips, folds {', '.join(map(str, np.unique(sounds.dataset['fold'][:])))}")
    for name, (weights, config, extractor) in VARIANTS.items():
        scores = rotations(*embedded(getattr(args, weights), config, extractor, sounds))
        print(f"{np.mean(scores):.3f}  {' '.join(f'{score:.3f}' for score in scores)}  {name}", flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
