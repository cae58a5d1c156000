"""A Trainer callback that pushes checkpoints during the training, and the finished run after it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.utils import logging

from urbansound_hf.errors import UserError
from urbansound_hf.hub.files import File, describes_model, model_files
from urbansound_hf.hub.push import Target, check_upload, push_run, upload

logger = logging.get_logger(__name__)


class Pusher(TrainerCallback):
    """Pushes what Trainer saves, as `--hub_strategy` says, in a thread.

    The `target` is checked with the first push. With `always`, a push is queued while the one before it is running,
    instead of being skipped.
    """

    def __init__(self, target: Target, strategy: str, always: bool) -> None:
        self.target, self.strategy, self.always = target, strategy, always
        self.thread, self.last = ThreadPoolExecutor(max_workers=1), Future[None]()
        self.last.set_result(None)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Starts to push the model files of the checkpoint, never the optimizer's, and returns at once."""
        checkpoint = Path(str(args.output_dir), f"checkpoint-{state.global_step}")
        files = model_files(checkpoint)
        # the checkpoints of a linear probe do not open
        loadable = "config.json" in files and any(name.startswith("model") for name in files)
        if self.strategy == "end" or not loadable or not (self.always or self.last.done()):
            return
        folder = checkpoint.with_name(f"push-{state.global_step}")
        message = f"Training in progress, step {state.global_step} of {state.max_steps}"
        self.last = self.thread.submit(self._push, checkpoint.name, keep(files, folder), folder, message)

    def _push(self, checkpoint: str, files: dict[str, File], folder: Path, message: str) -> None:
        copies = {f"{checkpoint}/{name}": path for name, path in files.items()}
        try:
            self.target = check_upload(self.target)
            files |= copies if self.strategy == "all_checkpoints" else {}
            upload(self.target, files, message, replaces=describes_model)
        except UserError as error:
            logger.warning("%s was not pushed, the training continues: %s", checkpoint, error)
        finally:
            shutil.rmtree(folder)

    def wait(self) -> None:
        """Waits for the push of the last checkpoint, whose folder may go then."""
        self.thread.shutdown()

    def finish(self, folder: Path) -> str | None:
        """Pushes the finished run, after the last checkpoint; returns the message of a failure, if any."""
        self.wait()
        try:
            print(f"pushed         {push_run(folder, self.target)}")
        except UserError as error:
            where = f"{self.target.repo_id}{' --private' if self.target.private else ''}"
            where += f" --revision {self.target.revision}" if self.target.revision else ""
            return f"{error}\n  the run is complete; to push it: urbansound-hf hub push {folder} {where}"
        return None


def keep(files: Mapping[str, File], folder: Path) -> dict[str, File]:
    """Links or copies files to another folder, where they stay when Trainer deletes the checkpoint."""
    shutil.rmtree(folder, ignore_errors=True)  # left by a run that was killed while it pushed
    folder.mkdir()
    for name, path in files.items():
        try:
            os.link(str(path), folder / name)
        except OSError:  # a file system without hard links
            shutil.copyfile(str(path), folder / name)
    return {name: folder / name for name in files}
