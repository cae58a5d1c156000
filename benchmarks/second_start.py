"""The CPU time of a training that was started before, to its first step, against a script that only loads the same.

Ours is `train.py` with `--max_steps 1` on a data set that is prepared and whose features are cached, without evaluation
of what it trained. The script imports torch, datasets and Trainer, loads the model and makes a Trainer.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator

from benchmarks.measure import Options, Row, compared, cost, python

SCRIPT = """
import sys, torch, datasets
from transformers import AutoFeatureExtractor, AutoModelForAudioClassification, Trainer, TrainingArguments
AutoFeatureExtractor.from_pretrained(sys.argv[1])
model = AutoModelForAudioClassification.from_pretrained(sys.argv[1], num_labels=10)
Trainer(model, TrainingArguments(sys.argv[2], use_cpu=not torch.cuda.is_available()))
"""
FLAGS = (
    "--test_fold 3 --validation none --eval_strategy no --save_strategy no --load_best_model_at_end false "
    "--max_steps 1 --gradient_accumulation_steps 1 --per_device_train_batch_size 1 --overwrite --quiet"
)
FIRST_STEP = """
import sys
from transformers import Trainer, TrainerCallback
class Stop(TrainerCallback):
    def on_step_begin(self, *arguments, **options):
        import os
        os._exit(0)
before = Trainer.__init__
def begin(self, *arguments, **options):
    before(self, *arguments, **options)
    self.add_callback(Stop())
Trainer.__init__ = begin
from urbansound_hf.cli import main
sys.argv = ["urbansound-hf", "train", *sys.argv[1:]]
raise SystemExit(main())
"""


def rows(options: Options) -> Iterator[Row]:
    data_dir, model = options.clips(), options.checkpoint()
    with tempfile.TemporaryDirectory() as folder:
        env = {"HF_DATASETS_CACHE": f"{folder}/cache", "HF_HUB_OFFLINE": "1"}
        flags = [*FLAGS.split(), "--data_dir", data_dir, "--model_name_or_path", model, "--output_dir", f"{folder}/run"]
        ours, stock = python(FIRST_STEP, *flags), python(SCRIPT, model, f"{folder}/stock")
        first = cost(ours, env)  # fills the caches
        yield compared(
            "to the first step, Whisper-tiny",
            lambda: cost(ours, env).cpu_seconds,
            lambda: cost(stock, env).cpu_seconds,
            options.rounds,
            "CPU s",
        )
        yield Row("the first start", first.cpu_seconds, None, None, "CPU s")
