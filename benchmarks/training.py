"""Training in clips a second: a shipped config against the training script of Transformers and against the bare step.

Random weights of the published shapes, synthetic clips of 4 s (`--data_dir` takes real ones). Ours is the shipped
config; the first updates are not counted. The script (`--transformers_example`, which is not copied here) gets the same
clips, batches of 32 (8 where these do not fit), four workers and bfloat16 where the hardware is made for it, with the
model's own context; it needs torchcodec. The bare step is forward, backward and AdamW on one batch that lies on the
device, in the precision and with the frozen part of ours.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from transformers import TrainerCallback

from benchmarks.measure import ROOT, LeftOut, Options, Row, cost, gpus, needs_packages, python
from urbansound_hf.config.arguments import RunConfig, has_bf16
from urbansound_hf.config.parse import parse_run_config
from urbansound_hf.data.urbansound8k import CLASSES
from urbansound_hf.models import adapt
from urbansound_hf.models.loading import load_feature_extractor, load_model
from urbansound_hf.training.experiment import prepare_experiment
from urbansound_hf.training.run import configured_extractor, configured_model, train_and_evaluate

CASES = {
    "wav2vec2-base": ("wav2vec2_base", "wav2vec2", 4.0),
    "AST": ("ast", "audio-spectrogram-transformer", 10.24),
    "Whisper-tiny": ("whisper_tiny", "whisper", 30.0),
    "YAMNet": ("yamnet", "yamnet", None),  # the script of Transformers cannot train it
}
"""Each with its config, its model type, and the seconds of the context that the model was published with."""
TINY = {"whisper": {"d_model": 384, "encoder_layers": 4, "encoder_attention_heads": 6, "encoder_ffn_dim": 1536,
                    "decoder_layers": 4, "decoder_attention_heads": 6, "decoder_ffn_dim": 1536}}  # fmt: skip
BATCH = 32
FLAGS = (
    "--probe_first false --validation none --eval_strategy no --save_strategy no --load_best_model_at_end false "
    "--num_train_epochs 99 --logging_steps 10 --overwrite --quiet"
)
SCRIPT = """
import sys
from pathlib import Path
import datasets, evaluate, transformers
from benchmarks.training import Clock
*sys.argv, warm, clock = sys.argv[1:]
before = transformers.Trainer.__init__
def begin(self, *arguments, **options):
    before(self, *arguments, **options)
    self.add_callback(Clock(int(warm), Path(clock)))
transformers.Trainer.__init__ = begin
datasets.load_dataset = lambda name, *arguments, **options: datasets.load_from_disk(name)
evaluate.load = lambda *arguments, **options: None
file = sys.argv[0]
exec(compile(Path(file).read_text(encoding="utf-8"), file, "exec"), {"__name__": "__main__"})
"""


class Clock(TrainerCallback):
    """The seconds from one update of a training to its last, at its end also in a file."""

    def __init__(self, warm: int, file: Path | None = None) -> None:
        self.warm, self.file, self.seconds = warm, file, 0.0

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step in (self.warm, state.max_steps):
            wait()
            self.seconds = time.perf_counter() - self.seconds

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.file:
            self.file.write_text(json.dumps(self.seconds), encoding="utf-8")


def wait() -> None:
    """Lets the GPU finish what was asked of it."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def configured(case: str, options: Options, folder: Path, updates: int) -> RunConfig:
    """The shipped config of a case, with random weights and as many updates."""
    name, model_type, _ = CASES[case]
    data = ["--data_dir", str(options.data_dir)] if options.data_dir else ["--dataset", "synthetic"]
    sizes = [f"{key}={value}" for key, value in TINY.get(model_type, {}).items() if key != "encoder_layers"]
    model = ["--model_name_or_path", model_type]
    if sizes:
        model += ["--model_config", "encoder_layers=2", *sizes]  # the config trains the lower half
    words = [*model, *data, *FLAGS.split(), "--test_fold", "3", "--max_steps", str(updates)]
    return parse_run_config([*words, "--output_dir", str(folder)], ROOT / "configs" / f"{name}.yaml")


def ours(config: RunConfig, warm: int) -> tuple[float, Any]:
    """Clips a second of our training after `warm` updates; and the training clips."""
    experiment, clock = prepare_experiment(config), Clock(warm)
    split = experiment.planned_splits()[0]
    train_and_evaluate(config, experiment.sounds, split, Path(str(config.training.output_dir)), callbacks=[clock])
    return BATCH * (config.training.max_steps - warm) / clock.seconds, experiment.sounds.dataset.select(split.train)


def bare(config: RunConfig, warm: int, updates: int) -> float:
    """Clips a second of steps on one batch that lies on the device."""
    extractor, model, device = configured_extractor(config), configured_model(config, CLASSES), config.training.device
    adapt.freeze(model, config.model.freeze)
    model.to(device).train()
    noise = list(np.random.default_rng(0).normal(0, 0.1, (BATCH, 4 * extractor.sampling_rate)).astype(np.float32))
    inputs = extractor(noise, sampling_rate=extractor.sampling_rate, return_tensors="pt")
    batch = {**{name: x.to(device) for name, x in inputs.items()}, "labels": torch.arange(BATCH, device=device) % 10}
    optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-5, fused=True)
    for step in range(updates):
        if step == warm:
            wait()
            started = time.perf_counter()
        with torch.autocast(device.type, torch.bfloat16, enabled=bool(config.training.bf16)):
            loss = model(**batch).loss
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
    wait()
    return BATCH * (updates - warm) / (time.perf_counter() - started)


def example(
    case: str, options: Options, clips: datasets.Dataset, folder: Path, warm: int, updates: int, batch: int = BATCH
) -> float:
    """Clips a second of the training script of Transformers."""
    script, (_, model_type, context) = options.example(), CASES[case]
    if context is None:
        raise LeftOut(f"{case}: the script of Transformers cannot train it")
    needs_packages("torchcodec")
    data = clips.select_columns(["audio", "label"]).cast_column("label", datasets.ClassLabel(names=CLASSES))
    data.save_to_disk(folder / "data")
    model = load_model(model_type, CLASSES, clip_seconds=context, overrides=TINY.get(model_type))
    model.save_pretrained(folder / "model")
    load_feature_extractor(model_type, clip_seconds=context).save_pretrained(folder / "model")
    words = {
        "model_name_or_path": folder / "model", "dataset_name": folder / "data", "output_dir": folder / "out",
        "audio_column_name": "audio", "label_column_name": "label", "max_length_seconds": 4, "do_train": True,
        "per_device_train_batch_size": batch, "dataloader_num_workers": 4, "max_steps": updates,
        "bf16": has_bf16(on_cpu=not gpus()), "save_strategy": "no", "remove_unused_columns": False,
        "attention_mask": False, "freeze_feature_encoder": model_type == "wav2vec2",
    }  # fmt: skip
    flags = [str(word) for name, value in words.items() for word in (f"--{name}", value)]
    cost(python(SCRIPT, script, *flags, str(warm), folder / "clock.json"))
    return batch * (updates - warm) / json.loads((folder / "clock.json").read_text(encoding="utf-8"))


def rows(options: Options) -> Iterator[Row | LeftOut]:
    warm, updates = (20, 80) if gpus() else (1, 4)
    for case in CASES:
        with tempfile.TemporaryDirectory() as name:
            config = configured(case, options, Path(name) / "run", updates)
            speed, clips = ours(config, warm)
            step = bare(config, warm, updates)
            yield Row(f"{case}, against the bare step", speed, step, speed / step, "clips/s")
            for batch in (BATCH, BATCH // 4):
                try:
                    stock = example(case, options, clips, Path(name), warm, updates, batch)
                except LeftOut as why:
                    yield why
                    break
                except RuntimeError as why:  # on a CPU, its AST takes more than 17 GiB
                    last = str(why).strip().splitlines()[-1]
                    yield LeftOut(f"{case}, the Transformers example in batches of {batch}: {last[-200:]}")
                else:
                    smaller = f" in batches of {batch}" * (batch != BATCH)
                    against = f"{case}, against the Transformers example{smaller}"
                    yield Row(against, speed, stock, speed / stock, "clips/s")
                    break
