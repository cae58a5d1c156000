"""`SoundTrainer`: Trainer with this project's loss, parameter groups and evaluation, which equals that of serving."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sized
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any, cast

import numpy as np
import torch
from torch import nn
from transformers import PrinterCallback, Trainer
from transformers.trainer import DEFAULT_PROGRESS_CALLBACK
from transformers.trainer_utils import TrainOutput

from urbansound_hf import progress
from urbansound_hf.config.arguments import RecipeArguments, RunArguments, trains_in_tf32
from urbansound_hf.errors import UserError
from urbansound_hf.features.dataset import (
    FROZEN,
    OnDevice,
    PreparedClips,
    WithFrozen,
    collate_evaluation,
    collate_training,
    readable,
)
from urbansound_hf.features.streaming import StreamedClips, StreamOrder
from urbansound_hf.models import adapt
from urbansound_hf.models.frozen import FrozenPart
from urbansound_hf.profiling import stage
from urbansound_hf.training import memory
from urbansound_hf.training.augmented_dataset import AugmentedDataset
from urbansound_hf.training.callbacks import SetEpoch, TrainingBar, WeightAverage
from urbansound_hf.training.finite import FiniteGuard, check_scores
from urbansound_hf.training.losses import BalancedSampler, class_weights, classification_loss, multi_label_loss


class SoundTrainer(Trainer):
    """Trainer that evaluates as serving does: batches of clips of one shape, without padding.

    Args:
        recipe: loss, sampling and weight averaging.
        labels: `(examples,)` class ids of `train_dataset`, or `(examples, classes)` of 0 and 1.
        classes: the number of classes.
        head_learning_rate: of the head; None: `learning_rate`.
        layer_decay: factor of the learning rate from each layer to the one below it.
        continued: the checkpoint that an interrupted training continues from.
        kwargs: of Trainer.
    """

    def __init__(
        self,
        recipe: RecipeArguments,
        labels: np.ndarray,
        classes: int,
        head_learning_rate: float | None = None,
        layer_decay: float = 1.0,
        continued: str | None = None,
        **kwargs: Any,
    ) -> None:
        with warnings.catch_warnings():  # of a smoother of Trainer's own, which is not used
            warnings.filterwarnings("ignore", "Label smoothing is not compatible")
            super().__init__(data_collator=collate_training, **kwargs)
        self.classes, self.continued = classes, continued
        self.frozen: FrozenPart | None = None  # the part of the model that is left out, its output being stored
        self.label_names = ["labels", "clip"]
        self.remove_callback(PrinterCallback if self.args.disable_tqdm else DEFAULT_PROGRESS_CALLBACK)
        self.add_callback(TrainingBar())
        self.guard = FiniteGuard(self.accelerator.gather, lambda: self.accelerator.optimizer_step_was_skipped)
        self.add_callback(self.guard)
        self.follow(recipe, labels, head_learning_rate, layer_decay)
        # The loss is a mean over the batch. If `forward` takes `**kwargs`, Trainer expects a loss that is divided by
        # the accumulated batch, and would not average over gradient accumulation steps.
        self.model_accepts_loss_kwargs = self.loss_is_scaled_for_ga = False

    def follow(
        self, recipe: RecipeArguments, labels: np.ndarray, head_learning_rate: float | None, layer_decay: float
    ) -> None:
        """Replaces the recipe and the learning rates, and adapts to the present `train_dataset`; see the class."""
        self.recipe, self.labels = recipe, labels
        self.head_learning_rate, self.layer_decay = head_learning_rate, layer_decay
        weights = class_weights(labels, self.classes) if recipe.class_weights else None
        self.class_weights = None if weights is None else weights.to(self.args.device)
        self.average = WeightAverage(recipe.ema_decay, self.continued) if recipe.ema_decay else None
        self.remove_callback(WeightAverage)
        self.remove_callback(SetEpoch)
        if self.average:
            self.add_callback(self.average)
        if isinstance(self.train_dataset, AugmentedDataset):
            self.add_callback(SetEpoch(self.train_dataset))
        if recipe.train_batch_size:
            self._set_micro_batch(self._micro_batches()[0])

    def train(self, *args: Any, **kwargs: Any) -> TrainOutput:
        """Trains; raises NotFiniteError if a loss or a weight is not finite, see `FiniteGuard`."""
        clips, batch = len(cast(Sized, self.train_dataset)), self.args.train_batch_size * self.args.world_size
        if self.args.dataloader_drop_last and clips < batch:
            what = f"`dataloader_drop_last` leaves no batch: {clips} windows, batches of {batch}"
            raise UserError(what, "--dataloader_drop_last", "leave it out, or lower --per_device_train_batch_size")
        self.guard.reset()
        try:
            with self._in_tf32(), nullcontext() if self.model_init is not None else self._in_memory():
                outcome = super().train(*args, **kwargs)
        except torch.OutOfMemoryError as error:
            what = f"the memory of the device ended: {str(error).splitlines()[0]}"
            fix = "give a smaller --per_device_train_batch_size or --per_device_eval_batch_size; checkpoints are kept"
            raise UserError(what, f"step {self.state.global_step} of {self.state.max_steps}", fix) from error
        self.guard.finish(cast(torch.nn.Module, self.model), self.args, self.state)
        return outcome

    @contextmanager
    def _in_tf32(self) -> Iterator[None]:
        """Where the GPU has TF32, computes in it within; the test clips are scored in float32, as serving does."""
        before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("high" if trains_in_tf32(self.args) else before)
        try:
            yield
        finally:
            torch.set_float32_matmul_precision(before)

    @contextmanager
    def _in_memory(self) -> Iterator[None]:
        """Keeps in memory what saves work within: outputs of the frozen part, the training clips on a GPU.

        Then the batch is made as large as the memory allows. A sharded model, or one on several devices in one
        process, is left alone.
        """
        before = self.train_dataset, self.eval_dataset
        alone = not (self.is_fsdp_enabled or self.is_deepspeed_enabled or self.args.n_gpu > 1)
        self.train_dataset, self.eval_dataset = (readable(each) for each in before)
        try:
            with ExitStack() as stack:
                if alone and self._store_frozen() and self.frozen:
                    stack.enter_context(self.frozen.skipped())
                clips, device = cast(Any, self.train_dataset), self.args.device
                plain = alone and device.type == "cuda" and isinstance(clips, PreparedClips | WithFrozen)
                if plain and clips.nbytes() <= memory.free_bytes(device):
                    self.train_dataset = OnDevice(clips, device)
                if alone and device.type != "cpu" and self.recipe.train_batch_size:
                    self._fit_micro_batch()
                yield
        finally:
            self.frozen, (self.train_dataset, self.eval_dataset) = None, before

    def _store_frozen(self) -> bool:
        """Computes the outputs of the frozen part for the training and validation clips, where that is worth it."""
        clips, arguments = cast(Any, self.train_dataset), cast(RunArguments, self.args)
        wanted = str(arguments.cache_frozen)
        updates = len(clips) / (
            arguments.train_batch_size * arguments.gradient_accumulation_steps * arguments.world_size
        )
        epochs = arguments.max_steps / updates if arguments.max_steps > 0 else arguments.num_train_epochs
        if wanted == "false" or not isinstance(clips, PreparedClips) or (wanted == "auto" and epochs <= 1):
            return False
        frozen = memory.FrozenOutputs(cast(nn.Module, self.model), arguments.device, self.accelerator.autocast)
        part = frozen.find(clips) if wanted == "true" or arguments.world_size == 1 else None
        if part is None:
            return False
        parts = [each for each in (clips, self.eval_dataset) if isinstance(each, PreparedClips)]
        needed, places = sum(frozen.nbytes(part, each) for each in parts), [arguments.device, torch.device("cpu")]
        place = next((each for each in places if needed <= memory.free_bytes(each)), None)
        if place is None and wanted == "auto":
            progress.say(f"the output of the frozen part is not kept: {needed / 2**30:.1f} GiB is too much")
            return False
        with stage("frozen part"):
            done = [frozen.compute(part, each, arguments.eval_batch_size, place or places[-1]) for each in parts]
        self.train_dataset, self.frozen = done[0], part
        self.eval_dataset = done[1] if len(done) > 1 else self.eval_dataset
        if self.is_world_process_zero():
            windows = sum(map(len, done))
            progress.say(f"the frozen part of the model ran once for {windows:,} windows: {needed / 2**20:,.0f} MiB")
        return True

    def _micro_batches(self) -> list[int]:
        processes = self.args.world_size * max(1, self.args.n_gpu)
        on_cpu = self.args.device.type == "cpu"
        return memory.micro_batches(self.recipe.train_batch_size or 0, processes, cast(nn.Module, self.model), on_cpu)

    def _set_micro_batch(self, clips: int) -> None:
        everywhere = clips * self.args.world_size * max(1, self.args.n_gpu)
        self.args.per_device_train_batch_size = clips
        self.args.gradient_accumulation_steps = (self.recipe.train_batch_size or 0) // everywhere
        self._train_batch_size = self.args.train_batch_size

    def _fit_micro_batch(self) -> None:
        """Halves the batch of a process until a step fits into the memory of every process."""
        sizes = list(memory.halved(self._micro_batches()))
        for clips in sizes:
            fits = float(self._fits(clips))
            everywhere = self.accelerator.reduce(torch.tensor(fits, device=self.args.device), "sum")
            if float(everywhere) == self.args.world_size or clips == sizes[-1]:
                break
        self._set_micro_batch(clips)
        if self.is_world_process_zero():
            steps = self.args.gradient_accumulation_steps
            progress.say(f"batch: {self.recipe.train_batch_size} clips an update, {clips} at once in {steps} steps")

    def _fits(self, clips: int) -> bool:
        dataset = cast(Any, self.train_dataset)
        indices = [index % len(dataset) for index in range(clips)]
        batch = dataset.__getitems__(indices) if isinstance(dataset, OnDevice) else [dataset[i] for i in indices]
        inputs = self._without_frozen(self._prepare_inputs(collate_training(batch)))
        inputs.pop("labels")
        return memory.fits(cast(nn.Module, self.model), inputs, self.accelerator.autocast)

    def _without_frozen(self, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The inputs of the model; the stored output of its frozen part goes to that."""
        if self.frozen:
            self.frozen.give(inputs[FROZEN])
        return {name: values for name, values in inputs.items() if name != FROZEN}

    def _clip_grad_norm(self, model: nn.Module) -> Any:
        with stage("optimiser"):
            return super()._clip_grad_norm(model)

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> Any:
        with stage("wait"):
            return super().get_batch_samples(*args, **kwargs)

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        with stage("backward"):  # what is left of a step beside `compute_loss`
            return self.guard.add(super().training_step(*args, **kwargs), self.state.global_step + 1)

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """0: nothing reads the estimate, for which Trainer counts the parameters at each step."""
        return 0

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        if "loss" in logs:
            self._check_finite()
        super().log(logs, *args, **kwargs)

    def _save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        with stage("write"):
            self._check_finite()
            super()._save_checkpoint(*args, **kwargs)

    def _check_finite(self) -> None:
        self.guard.check(cast(torch.nn.Module, self.model), self.args, self.state)

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        """The model's own loss (ECAPA-TDNN's has a margin), or one with several or soft labels, weights or gamma."""
        inputs = self._without_frozen(inputs)
        labels, smoothing, gamma = inputs["labels"], self.args.label_smoothing_factor, self.recipe.focal_gamma
        own = labels.ndim == 1 and self.class_weights is None and not smoothing and not gamma
        with stage("forward"):
            outputs = model(**{name: values for name, values in inputs.items() if own or name != "labels"})
            loss = outputs.loss
            if not own:
                of_labels = multi_label_loss if self.labels.ndim == 2 else classification_loss
                loss = of_labels(outputs.logits, labels, self.class_weights, smoothing, gamma)
        return (loss, outputs) if return_outputs else loss

    def _get_dataloader(self, dataset: Any, description: str, *args: Any, **kwargs: Any) -> Any:
        """Trainer's, which reads `datasets` through `PreparedClips`; workers load only clips that need them.

        In evaluation clips of several shapes share a batch, and none is dropped.
        """
        args_, clips = cast(RunArguments, self.args), readable(dataset)
        names = ("dataloader_num_workers", "dataloader_pin_memory", "dataloader_drop_last")
        before = {name: getattr(args_, name) for name in names}
        if description != "Training":
            self.data_collator, args_.dataloader_drop_last = collate_evaluation, False
        if isinstance(clips, OnDevice):
            args_.dataloader_num_workers, args_.dataloader_pin_memory = 0, False
        elif args_.chooses_workers:
            loads = description == "Training" and args_.device.type != "cpu"
            loads |= streamed(clips) is not None
            args_.dataloader_num_workers = min(4, progress.worker_count()) if loads else 0
        try:
            return super()._get_dataloader(clips, description, *args, **kwargs)
        finally:
            vars(args_).update(before)
            self.data_collator = collate_training

    def _get_eval_sampler(self, eval_dataset: Any) -> Any:
        """Clips of equal length together, which make batches of one shape; the results go by their rows."""
        if clips := streamed(eval_dataset):
            return self._stream_order(clips, self.args.eval_batch_size)
        return eval_dataset.by_size() if hasattr(eval_dataset, "by_size") else range(len(eval_dataset))

    def _get_train_sampler(self, train_dataset: Any = None) -> torch.utils.data.Sampler | None:
        if self.recipe.balanced_sampling:
            return BalancedSampler(self.labels, self.args.seed)
        if clips := streamed(self.train_dataset):
            return self._stream_order(clips, self._train_batch_size)
        return super()._get_train_sampler(train_dataset)

    def _stream_order(self, clips: StreamedClips, batch: int) -> StreamOrder:
        streams = self.args.world_size * max(1, self.args.dataloader_num_workers)
        return clips.order(batch, streams, self.args.seed)

    def evaluation_loop(self, *args: Any, **kwargs: Any) -> Any:
        """Evaluates the weights that will be saved: their moving average with `ema_decay`."""
        self._check_finite()
        unwrapped: Any = self.model
        averaged = self.average.in_place(unwrapped) if self.average and self.average.running else nullcontext()
        with stage("evaluate"), averaged:
            result = super().evaluation_loop(*args, **kwargs)
        check_scores(result.predictions, self.args, self.state)
        return result

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """Trainer's choice of optimizer (`--optim`) over this project's parameter groups."""
        model = model or self.model
        rates = self.args.learning_rate, self.args.weight_decay, self.head_learning_rate, self.layer_decay
        kind, settings = self.get_optimizer_cls_and_kwargs(self.args, model)
        groups = adapt.parameter_groups(model, *rates)
        self.optimizer_cls_and_kwargs = (kind, {"params": groups, **settings})  # such as GaLore's
        return super().create_optimizer(model)

    def prediction_step(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[torch.Tensor | None, torch.Tensor | None, Any]:
        """Logits `(batch, classes)` of clips of several shapes; the loss is computed with the metrics, over clips."""
        inputs = self._prepare_inputs(inputs)
        groups = self._in_step(inputs["groups"])
        if (self.args.bf16_full_eval or self.args.fp16_full_eval) and not self.is_in_train:
            dtype = next(model.parameters()).dtype  # Trainer has converted the model
            groups = [
                {name: x.to(dtype) if x.is_floating_point() else x for name, x in group.items()} for group in groups
            ]
        with torch.no_grad():
            scored = [model(**self._without_frozen(group)).logits.float() for group in groups]
        order = torch.cat(inputs["positions"]).argsort()
        logits = torch.cat(scored[: len(inputs["groups"])])[order]  # (batch, classes)
        return None, logits, (inputs["labels"], inputs["clip"])

    def _in_step(self, groups: list[dict[str, torch.Tensor]]) -> list[dict[str, torch.Tensor]]:
        """Under FSDP all processes must call the model equally often: repeats the first group, its result is unused."""
        if not self.is_fsdp_enabled:
            return groups
        most = self.accelerator.gather(torch.tensor([len(groups)], device=self.args.device)).max()
        return groups + groups[:1] * (int(most) - len(groups))


def streamed(dataset: Any) -> StreamedClips | None:
    """The streamed clips of a data set, augmented or not; None where they are prepared."""
    clips = getattr(dataset, "clips", dataset)
    return clips if isinstance(clips, StreamedClips) else None
