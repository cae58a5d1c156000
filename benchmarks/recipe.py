"""What each ingredient of a recipe is worth, on real clips: two folds train, the third tests, in all three rotations.

    python -m benchmarks.recipe --data_dir DIR --whisper DIR --yamnet DIR [--outputs DIR] [--only REGEX]

trains what is missing: for each model the plain recipe, each ingredient alone, the final recipe, the final one without
each ingredient. One seed screens; the plain and the final recipe, and what won by that seed, have three. The facts of
the receipts go into docs/receipts/recipe.jsonl, of which docs/recipe.md is made. Every training takes the last weights:
with two folds there is none left to choose on. Given twice at the same time, the command shares its trainings out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from benchmarks.experiments import BATCH, PROBE, RESIDUAL_CNN, Job, command
from benchmarks.measure import RECEIPTS

FILE = RECEIPTS / "recipe.jsonl"
FOLDS, SEEDS = (1, 2, 3), (1, 2, 3)

PLAIN = {
    "YAMNet": (
        "--model_name_or_path {yamnet} --model_config training_patch_hop_frames=96 --freeze none --learning_rate 1e-3 "
        f"--num_train_epochs 4 {BATCH}"
    ),
    "CNN": f"{RESIDUAL_CNN} --num_train_epochs 24",
    "Whisper": f"--model_name_or_path {{whisper}} --freeze none --learning_rate 1e-4 --num_train_epochs 3 {BATCH}",
}
"""The recipe without any ingredient: `train.py`'s words."""

GENTLE = "--learning_rate 1e-5 --head_learning_rate 1e-3 --layer_decay 0.8"
AVERAGED, SMOOTHED, MIXED, MASKED = (
    "--ema_decay 0.99", "--label_smoothing_factor 0.1", "--mixup_alpha 0.4", "--spec_augment 1",
)  # fmt: skip
PROBE_FIRST = "--probe_first --probe_penalty 0.1 --head_learning_rate 1e-4"  # measured before it could be chosen
INGREDIENTS = {
    "YAMNet": {
        "peak at full scale": "--feature_extractor_config peak_normalize=true",
        "gentle rates": GENTLE,
        "probe first": PROBE_FIRST,
        "shift": "--augment shift:1",
        "mixup": MIXED,
        "averaged weights": AVERAGED,
        "label smoothing": SMOOTHED,
        "masks": MASKED,
    },
    "CNN": {
        "mixup": MIXED,
        "masks": MASKED,
        "averaged weights": AVERAGED,
        "label smoothing": SMOOTHED,
        "focal loss": "--focal_gamma 2",
        "shift, speed, equalizer": "--augment shift:1 speed:0.5 equalizer:0.5",
        "twice the epochs": "--num_train_epochs 48",
    },
    "Whisper": {
        "its first two layers": "--model_config encoder_layers=2",
        "gentle rates": GENTLE,
        "probe first": PROBE_FIRST,
        "mixup": MIXED,
        "averaged weights": AVERAGED,
    },
}
"""What is added to the plain recipe, one at a time."""

FINAL: dict[str, tuple[str, ...]] = {
    "YAMNet": ("peak at full scale", "gentle rates", "probe first"),
    "CNN": ("shift, speed, equalizer",),
    "Whisper": ("its first two layers", "gentle rates", "probe first"),
}
"""The ingredients of the final recipe: those that earned their place; Whisper's gentle rates just cost nothing."""

SHIPPED = {"YAMNet": "probe of the config", "CNN": "final", "Whisper": "final"}
"""The training that each shipped config is."""

NEARLY = {"CNN": ("masks",)}
"""What one seed took for an ingredient of the final recipe, and three did not."""

MORE = {"YAMNet": ("averaged weights", "label smoothing"), "CNN": ("masks", "label smoothing")}
"""What was tried on top of the final recipe."""

SEVERAL = ("augment", "model_config", "feature_extractor_config")


def merged(texts: list[str]) -> str:
    """Flags of several texts; of those that take several values the values come together, else the last one counts."""
    head, *flags = " ".join(texts).split(" --")
    values: dict[str, str] = {}
    for flag in flags:
        name, _, value = flag.partition(" ")
        values[name] = f"{values[name]} {value}" if name in SEVERAL and name in values else value
    return " ".join([head, *(f"--{name} {value}".strip() for name, value in values.items())])


PROBE_ALONE = f"--freeze backbone --probe_first --learning_rate 1e-9 --num_train_epochs 1 {BATCH}"
FULL_SCALE, TWO_LAYERS = INGREDIENTS["YAMNet"]["peak at full scale"], INGREDIENTS["Whisper"]["its first two layers"]
OTHERS = {
    "YAMNet: frozen, linear probe": f"--model_name_or_path {{yamnet}} {PROBE}",
    "YAMNet: frozen, linear probe, peak at full scale": f"--model_name_or_path {{yamnet}} {PROBE} {FULL_SCALE}",
    "YAMNet: final - fine-tuning": f"--model_name_or_path {{yamnet}} {PROBE_ALONE} --probe_penalty 0.1 {FULL_SCALE}",
    "Whisper: frozen, linear probe": f"--model_name_or_path {{whisper}} {PROBE}",
    "Whisper: final - fine-tuning": f"--model_name_or_path {{whisper}} {PROBE_ALONE} --probe_penalty 0.1 {TWO_LAYERS}",
}
OTHERS |= {
    f"YAMNet: probe{name}": f"--model_name_or_path {{yamnet}} {PROBE_ALONE} {FULL_SCALE} {flags}".strip()
    for name, flags in {
        " of the config": "--model_config normalize_embedding=true --probe_pooling rms",
        " - rms": "--model_config normalize_embedding=true",
        " - direction": "--probe_pooling rms",
        " - chosen penalty": "--model_config normalize_embedding=true --probe_pooling rms --probe_penalty 0.1",
        " with mean max std": "--model_config normalize_embedding=true --probe_pooling mean max std",
        " on two layers": "--model_config normalize_embedding=true --probe_pooling rms --probe_layers 13 14",
    }.items()
}
"""Trainings that the table holds the recipes against; without fine-tuning nothing is left to a seed."""


TUTORIAL = f"configs/cnn.yaml --num_train_epochs 60 {BATCH}"
"""The tutorial's CNN by its own recipe, but for the size of the batch: 256 would leave two updates an epoch."""


def jobs(words: dict[str, str]) -> Iterator[Job]:
    """All trainings; `words` fills in the folders of the weights."""

    def job(name: str, text: str, fold: int, seed: int) -> Job:
        data = ("--data_dir", words["data_dir"], "--validation", "none", "--bf16", "false")
        return Job(name, fold, seed, (*text.format(**words).split(), *data))

    def together(model: str, names: Sequence[str]) -> str:
        return merged([PLAIN[model], *(INGREDIENTS[model][name] for name in names)])

    for model, plain in PLAIN.items():
        final = FINAL[model]
        recipes = {"plain": plain}
        recipes |= {f"+ {name}": together(model, [name]) for name in INGREDIENTS[model] if (name,) != final}
        recipes["final"] = together(model, final)
        if len(final) > 1:  # of one ingredient, the plain one is what is left without it
            recipes |= {f"final - {name}": together(model, [each for each in final if each != name]) for name in final}
        recipes |= {f"final + {name}": together(model, [*final, name]) for name in MORE.get(model, ())}
        for name, text in recipes.items():
            confirmed = name in ("plain", "final") or name.endswith((*final, *NEARLY.get(model, ())))
            seeds = SEEDS if confirmed else SEEDS[:1]
            yield from (job(f"{model}: {name}", text, fold, seed) for seed in seeds for fold in FOLDS)
    for name, text in OTHERS.items():
        seeds = SEEDS if "linear probe" in name else SEEDS[:1]
        yield from (job(name, text, fold, seed) for seed in seeds for fold in FOLDS)
    yield from (job("tutorial CNN: official folds", TUTORIAL, fold, seed) for seed in SEEDS for fold in FOLDS)
    yield from (job("tutorial CNN: random splits", TUTORIAL, 0, seed) for seed in SEEDS)


def main(argv: Sequence[str] | None = None) -> int:
    return command(argv, __doc__, jobs, FILE)


if __name__ == "__main__":
    raise SystemExit(main())
