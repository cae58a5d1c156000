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
from urbansound_hf.evaluation.confidence import mean_interval
from urbansound_hf.features.dataset import prepare_features
from urbansound_hf.models.linear_probe import PENALTY, choose_penalty, embeddings, regression
from urbansound_hf.models.loading import load_feature_extractor, load_model
from urbansound_hf.models.registry import window_cut

VARIANTS = {
    "YAMNet": ("yamnet", {}, {}),
    "YAMNet, patches side by side": ("yamnet", {"patch_hop_frames": 96}, {}),
    "YAMNet, peak at full scale": ("yamnet", {}, {"peak_normalize": True}),
    "YAMNet, peak at full scale, patches side by side": ("yamnet", {"patch_hop_frames": 96}, {"peak_normalize": True}),
    "YAMNet, peak, its direction": ("yamnet", {"normalize_embedding": True}, {"peak_normalize": True}),
    "YAMNet, peak, root mean square": ("yamnet", {"pooling": ["rms"]}, {"peak_normalize": True}),
    "YAMNet, peak, mean max std": ("yamnet", {"pooling": ["mean", "max", "std"]}, {"peak_normalize": True}),
    "YAMNet, peak, direction of the root mean square": (
        "yamnet",
        {"pooling": ["rms"], "normalize_embedding": True},
        {"peak_normalize": True},
    ),
    "YAMNet, the same, its last two layers": (
        "yamnet",
        {"pooling": ["rms"], "normalize_embedding": True, "embedding_layers": [13, 14]},
        {"peak_normalize": True},
    ),
    "Whisper, its first layer": ("whisper", {"encoder_layers": 1}, {}),
    "Whisper, its first two layers": ("whisper", {"encoder_layers": 2}, {}),
    "Whisper, its first three layers": ("whisper", {"encoder_layers": 3}, {}),
    "Whisper, all four": ("whisper", {}, {}),
}
"""The folder of weights, and what replaces values of the model's and of the extractor's config."""


def embedded(
    name: str, model_config: Mapping[str, Any], extractor_config: Mapping[str, Any], sounds: Sounds
) -> tuple[np.ndarray, np.ndarray]:
    """Of each clip the embedding `(clips, hidden)` and the class."""
    extractor = load_feature_extractor(name, overrides=extractor_config)
    model = load_model(name, sounds.labels, overrides=model_config)
    rows = embeddings(
        model, prepare_features(sounds.dataset, extractor, window_cut(model, extractor, 4.0)), batch_size=8
    )
    rows = rows.select(np.unique(rows["clip"][:], return_index=True)[1])  # of a longer clip the first window
    return rows["embedding"][:], np.asarray(rows["labels"][:])


def rotations(inputs: np.ndarray, labels: np.ndarray, sounds: Sounds, chosen: bool) -> np.ndarray:
    """Which clips are right `(clips,)`, each fold in turn the test; `chosen`: the penalty by cross-validation."""
    folds, recordings = np.asarray(sounds.dataset["fold"][:]), np.asarray(sounds.dataset["group"][:])
    right, classes = np.zeros(len(labels), bool), int(labels.max()) + 1
    for fold in np.unique(folds):
        train, test = folds != fold, folds == fold
        known = (inputs[train], labels[train])
        penalty = choose_penalty(*known, recordings[train], classes)["penalty"] if chosen else PENALTY
        weight, bias = regression(*known, classes, penalty)
        right[test] = (inputs[test] @ weight.T + bias).argmax(axis=1) == labels[test]
    return right


def line(right: np.ndarray, sounds: Sounds) -> str:
    """The mean over folds with its interval by recording, each fold, and the background sounds."""
    folds, salience = (np.asarray(sounds.dataset[name][:]) for name in ("fold", "salience"))
    of_folds = [right[folds == fold].mean() for fold in np.unique(folds)]
    low, high = mean_interval(right, np.asarray(sounds.dataset["group"][:]))
    listed = " ".join(f"{score:.3f}" for score in of_folds)
    return f"{np.mean(of_folds):.3f} ({low:.3f} to {high:.3f})  {listed}  background {right[salience == 2].mean():.3f}"


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("data_dir", "whisper", "yamnet"):
        parser.add_argument(f"--{name}", required=True)
    args = parser.parse_args(argv)
    sounds = load_sounds(SoundRequest(data_dir=args.data_dir))
    print(f"{len(sounds.dataset)} clips, folds {', '.join(map(str, np.unique(sounds.dataset['fold'][:])))}")
    for name, (weights, config, extractor) in VARIANTS.items():
        known = embedded(getattr(args, weights), config, extractor, sounds)
        for chosen in (False, True):
            penalty = "penalty chosen" if chosen else f"penalty {PENALTY}"
            print(f"{line(rotations(*known, sounds, chosen), sounds)}  {name}, {penalty}", flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
