"""`SoundTrainer`: Trainer with this project's loss, parameter groups, evaluation as in serving, and use of memory."""

import warnings
from collections.abc import Callable, Iterator, Sized
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any, cast

import numpy as np
import psutil
import torch
from torch import Tensor, nn
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
    collate_evaluation,
    collate_training,
    readable,
)
from urbansound_hf.features.streaming import StreamedClips, StreamOrder
from urbansound_hf.models import adapt
from urbansound_hf.models.adapt import FrozenPart
from urbansound_hf.models.loading import library_messages
from urbansound_hf.profiling import stage
from urbansound_hf.training.augmented_dataset import AugmentedDataset
from urbansound_hf.training.callbacks import FiniteGuard, TrainingBar, WeightAverage, check_scores
from urbansound_hf.training.losses import BalancedSampler, class_weights, classification_loss


class SoundTrainer(Trainer):
    """Trainer that evaluates as serving does: batches of clips of one shape, without padding.

    Args:
        recipe: loss, sampling and weight averaging.
        labels: `(examples,)` class ids of `train_dataset`, or `(examples, classes)` of 0 and 1.
        classes: the number of classes.
        rates: `head_learning_rate` (None: `learning_rate`), and `layer_decay`, from a layer to the one below.
        continued: the checkpoint that an interrupted training continues from.
    """

    args: RunArguments
    model: Any

    def __init__(
        self,
        recipe: RecipeArguments,
        labels: np.ndarray,
        classes: int,
        rates: tuple[float | None, float] = (None, 1.0),
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
        self.follow(recipe, labels, rates)
        # The loss is a mean over the batch. If `forward` takes `**kwargs`, Trainer expects a loss that is divided by
        # the accumulated batch, and would not average over gradient accumulation steps.
        self.model_accepts_loss_kwargs = self.loss_is_scaled_for_ga = False

    def follow(self, recipe: RecipeArguments, labels: np.ndarray, rates: tuple[float | None, float]) -> None:
        """Replaces the recipe and the learning rates, and adapts to the present `train_dataset`; see the class."""
        self.recipe, self.labels, self.rates = recipe, labels, rates
        weights = class_weights(labels, self.classes) if recipe.class_weights else None
        self.class_weights = None if weights is None else weights.to(self.args.device)
        self.average = WeightAverage(recipe.ema_decay, self.continued) if recipe.ema_decay else None
        self.remove_callback(WeightAverage)
        self.remove_callback(AugmentedDataset)
        if self.average:
            self.add_callback(self.average)
        if isinstance(self.train_dataset, AugmentedDataset):
            self.add_callback(self.train_dataset)
        if recipe.train_batch_size:
            self._set_micro_batch(self._batch_sizes()[0])

    def train(self, *args: Any, **kwargs: Any) -> TrainOutput:
        """Trains; raises NotFiniteError if a loss or a weight is not finite, see `FiniteGuard`."""
        clips, batch = len(cast(Sized, self.train_dataset)), self.args.train_batch_size * self.args.world_size
        if self.args.dataloader_drop_last and clips < batch:
            what = f"`dataloader_drop_last` leaves no batch: {clips} windows, batches of {batch}"
            raise UserError(what, "--dataloader_drop_last", "leave it out, or lower --per_device_train_batch_size")
        try:
            with nullcontext() if self.model_init is not None else self._in_memory():
                before = torch.get_float32_matmul_precision()
                # The test clips are scored in float32, as serving does.
                torch.set_float32_matmul_precision("high" if trains_in_tf32(self.args) else before)
                try:
                    outcome = super().train(*args, **kwargs)
                finally:
                    torch.set_float32_matmul_precision(before)
        except torch.OutOfMemoryError as error:
            what = f"the memory of the device ended: {str(error).splitlines()[0]}"
            fix = "give a smaller --per_device_train_batch_size or --per_device_eval_batch_size; checkpoints are kept"
            raise UserError(what, f"step {self.state.global_step} of {self.state.max_steps}", fix) from error
        self.guard.check(self.model, self.args, self.state, at_end=True)
        return outcome

    @contextmanager
    def _in_memory(self) -> Iterator[None]:
        """Keeps in memory what saves work within, and makes the batch fit; not for a model on several devices."""
        before = self.train_dataset, self.eval_dataset
        self.train_dataset, self.eval_dataset = map(readable, before)
        try:
            with ExitStack() as stack:
                if not (self.is_fsdp_enabled or self.is_deepspeed_enabled or self.args.n_gpu > 1):
                    self._store_frozen()
                    if self.frozen:
                        stack.enter_context(self.frozen.skipped())
                    clips, device = cast(Any, self.train_dataset), self.args.device
                    plain = device.type == "cuda" and isinstance(clips, PreparedClips)
                    if plain and clips.nbytes() <= free_bytes(device):
                        self.train_dataset = OnDevice(clips, device)
                    if device.type != "cpu" and self.recipe.train_batch_size:
                        self._fit_micro_batch()
                yield
        finally:
            self.frozen, (self.train_dataset, self.eval_dataset) = None, before

    def _store_frozen(self) -> None:
        """Computes the outputs of the frozen part for the training and validation clips, where that is worth it."""
        clips, arguments = cast(Any, self.train_dataset), self.args
        wanted, processes = str(arguments.cache_frozen), arguments.world_size
        updates = len(clips) / (arguments.train_batch_size * arguments.gradient_accumulation_steps * processes)
        epochs = arguments.max_steps / updates if arguments.max_steps > 0 else arguments.num_train_epochs
        worth_it = wanted == "true" or (wanted == "auto" and epochs > 1 and processes == 1)
        if not worth_it or not isinstance(clips, PreparedClips):
            return
        example = collate_evaluation([clips[0], clips[len(clips) - 1]])["groups"][0]
        with self.accelerator.autocast():
            inputs = self._prepare_inputs(example)
            part = next((each for each in adapt.frozen_parts(self.model) if each.is_constant(self.model, inputs)), None)
        if part is None:
            return
        parts = [each for each in (clips, self.eval_dataset) if isinstance(each, PreparedClips)]
        needed = sum(self._frozen_outputs(part, each, each.by_size()[:1])[0][1].nbytes * len(each) for each in parts)
        place = next((each for each in (arguments.device, CPU) if needed <= free_bytes(each)), None)
        if place is None and wanted == "auto":
            progress.say(f"the output of the frozen part is not kept: {needed / 2**30:.1f} GiB is too much")
            return
        with stage("frozen part"):
            done = [self._with_frozen(part, each, place or CPU) for each in parts]
        self.train_dataset, self.frozen = done[0], part
        self.eval_dataset = done[1] if len(done) > 1 else self.eval_dataset
        if self.is_world_process_zero():
            windows = sum(map(len, done))
            progress.say(f"the frozen part of the model ran once for {windows:,} windows: {needed / 2**20:,.0f} MiB")

    def _with_frozen(self, part: FrozenPart, clips: PreparedClips, store: torch.device) -> PreparedClips:
        """The clips with the outputs of a frozen part, which are kept on `store`."""
        order, batch_size = clips.by_size(), self.args.eval_batch_size
        outputs: dict[int, Tensor] = {}
        with progress.Bar(desc="Computing the frozen part", total=len(order), unit="windows", leave=False) as bar:
            for first in range(0, len(order), batch_size):
                done = self._frozen_outputs(part, clips, order[first : first + batch_size])
                outputs |= {index: output.to(store) for index, output in done}
                bar.update(len(done))
        return PreparedClips(clips.prepared, [outputs[index] for index in range(len(clips))])

    @torch.no_grad()
    def _frozen_outputs(self, part: FrozenPart, clips: PreparedClips, indices: list[int]) -> list[tuple[int, Any]]:
        self.model.eval()
        batch = collate_evaluation([clips[index] for index in indices])
        found: list[tuple[int, Any]] = []
        for positions, group in zip(batch["positions"], batch["groups"], strict=True):
            with self.accelerator.autocast():
                outputs = part.compute(self.model, self._prepare_inputs(group))
            found += zip((indices[position] for position in positions), outputs, strict=True)
        return found

    def _batch_sizes(self) -> list[int]:
        processes, on_cpu = self.args.world_size * max(1, self.args.n_gpu), self.args.device.type == "cpu"
        return micro_batches(self.recipe.train_batch_size or 0, processes, self.model, on_cpu)

    def _set_micro_batch(self, clips: int) -> None:
        everywhere = clips * self.args.world_size * max(1, self.args.n_gpu)
        self.args.per_device_train_batch_size = clips
        self.args.gradient_accumulation_steps = (self.recipe.train_batch_size or 0) // everywhere
        self._train_batch_size = self.args.train_batch_size

    def _fit_micro_batch(self) -> None:
        """Halves the batch of a process until a step fits into the memory of every process."""
        sizes, dataset = self._batch_sizes(), cast(Any, self.train_dataset)
        for clips in sizes:
            indices = [index % len(dataset) for index in range(clips)]
            rows = dataset.__getitems__(indices) if isinstance(dataset, OnDevice) else [dataset[i] for i in indices]
            inputs = self._without_frozen(self._prepare_inputs(collate_training(rows)))
            inputs.pop("labels")
            fits = float(fits_memory(self.model, inputs, self.accelerator.autocast))
            everywhere = self.accelerator.reduce(torch.tensor(fits, device=self.args.device), "sum")
            if float(everywhere) == self.args.world_size or clips == sizes[-1]:
                break
        self._set_micro_batch(clips)
        if self.is_world_process_zero():
            steps = self.args.gradient_accumulation_steps
            progress.say(f"batch: {self.recipe.train_batch_size} clips an update, {clips} at once in {steps} steps")

    def _without_frozen(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """The inputs of the model; the stored output of its frozen part goes to that."""
        if self.frozen:
            self.frozen.output = inputs[FROZEN].flatten(0, 1)
        return {name: values for name, values in inputs.items() if name != FROZEN}

    # With --profile, their time counts as that of a stage.
    _clip_grad_norm = stage("optimiser")(Trainer._clip_grad_norm)
    get_batch_samples = stage("wait")(Trainer.get_batch_samples)

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        with stage("backward"):  # what is left of a step beside `compute_loss`
            return self.guard.add(super().training_step(*args, **kwargs), self.state.global_step + 1)

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """0: nothing reads the estimate, for which Trainer counts the parameters at each step."""
        return 0

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        if "loss" in logs:
            self.guard.check(self.model, self.args, self.state)
        super().log(logs, *args, **kwargs)

    def _save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        with stage("write"):
            self.guard.check(self.model, self.args, self.state)
            super()._save_checkpoint(*args, **kwargs)

    def _save(self, *args: Any, **kwargs: Any) -> None:
        with library_messages():  # no bar of the shards, of which there is one
            super()._save(*args, **kwargs)

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, *_: Any, **__: Any
    ) -> Any:
        """The model's own loss (ECAPA-TDNN's has a margin), or one with several or soft labels, weights or gamma."""
        inputs = self._without_frozen(inputs)
        labels, smoothing, gamma = inputs["labels"], self.args.label_smoothing_factor, self.recipe.focal_gamma
        own = labels.ndim == 1 and self.class_weights is None and not smoothing and not gamma
        with stage("forward"):
            outputs = model(**{name: values for name, values in inputs.items() if own or name != "labels"})
            loss = outputs.loss
            if not own:
                several = self.labels.ndim == 2
                loss = classification_loss(outputs.logits, labels, self.class_weights, smoothing, gamma, several)
        return (loss, outputs) if return_outputs else loss

    def _get_dataloader(self, dataset: Any, description: str, *args: Any, **kwargs: Any) -> Any:
        """Trainer's, which reads `datasets` through `PreparedClips`; in evaluation no clip is dropped."""
        args_, clips = self.args, readable(dataset)
        names = ("dataloader_num_workers", "dataloader_pin_memory", "dataloader_drop_last")
        before = {name: getattr(args_, name) for name in names}
        if description != "Training":
            self.data_collator, args_.dataloader_drop_last = collate_evaluation, False
        if isinstance(clips, OnDevice):
            args_.dataloader_num_workers, args_.dataloader_pin_memory = 0, False
        elif args_.chooses_workers:
            loads = streamed(clips) is not None or (description == "Training" and args_.device.type != "cpu")
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
        self.guard.check(self.model, self.args, self.state)
        averaged = self.average.in_place(self.model) if self.average and self.average.running else nullcontext()
        with stage("evaluate"), averaged:
            result = super().evaluation_loop(*args, **kwargs)
        check_scores(result.predictions, self.args, self.state)
        return result

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """Trainer's choice of optimizer (`--optim`) over this project's parameter groups."""
        model = model or self.model
        kind, settings = self.get_optimizer_cls_and_kwargs(self.args, model)
        groups = adapt.parameter_groups(model, self.args.learning_rate, self.args.weight_decay, *self.rates)
        self.optimizer_cls_and_kwargs = (kind, {"params": groups, **settings})  # such as GaLore's
        return super().create_optimizer(model)

    def prediction_step(self, model: nn.Module, inputs: dict[str, Any], *_: Any, **__: Any) -> Any:
        """Logits `(batch, classes)` of clips of several shapes; the loss is computed with the metrics, over clips."""
        inputs = self._prepare_inputs(inputs)
        groups = list(inputs["groups"])
        if self.is_fsdp_enabled:  # all processes must call the model equally often: the first group is repeated
            most = self.accelerator.gather(torch.tensor([len(groups)], device=self.args.device)).max()
            groups += groups[:1] * (int(most) - len(groups))
        if (self.args.bf16_full_eval or self.args.fp16_full_eval) and not self.is_in_train:
            dtype = next(model.parameters()).dtype  # Trainer has converted the model
            groups = [{name: x.to(dtype) if x.is_floating_point() else x for name, x in group.items()}
                      for group in groups]  # fmt: skip
        with torch.no_grad():
            scored = [model(**self._without_frozen(group)).logits.float() for group in groups]
        order = torch.cat(inputs["positions"]).argsort()
        logits = torch.cat(scored[: len(inputs["groups"])])[order]  # (batch, classes)
        return None, logits, (inputs["labels"], inputs["clip"])


def streamed(dataset: Any) -> StreamedClips | None:
    """The streamed clips of a data set, augmented or not; None where they are prepared."""
    clips = getattr(dataset, "clips", dataset)
    return clips if isinstance(clips, StreamedClips) else None


DEVICE_SHARE, MEMORY_SHARE = 0.25, 0.5  # at most these parts of what is free are filled
LARGE = 20_000_000  # parameters from which on a CPU gains nothing from more than `LARGE_BATCH` clips at once
LARGE_BATCH = 8
CPU = torch.device("cpu")

Context = Callable[[], AbstractContextManager[Any]]


def free_bytes(device: torch.device) -> float:
    """The memory of a device that may be filled with clips or their outputs."""
    if device.type == "cuda":
        return DEVICE_SHARE * torch.cuda.mem_get_info(device)[0]
    return MEMORY_SHARE * psutil.virtual_memory().available if device.type == "cpu" else 0


def micro_batches(clips: int, processes: int, model: nn.Module, on_cpu: bool) -> list[int]:
    """The batch sizes to try in a process so that all of them together make an update of `clips` clips.

    They are divisors of a process's share, each at most half of the one before. With trained batch norms only the whole
    share, as their statistics are those of the batch; for a large model on a CPU only small ones. Raises UserError if
    the processes cannot share the clips evenly.
    """
    share, rest = divmod(clips, processes)
    if rest or not share:
        what = f"{clips} clips an update cannot be shared out evenly among {processes} processes"
        raise UserError(what, "--train_batch_size", f"give a multiple of {processes}")
    if any(isinstance(m, nn.modules.batchnorm._BatchNorm) and any(p.requires_grad for p in m.parameters())
           for m in model.modules()):  # fmt: skip
        return [share]
    most = LARGE_BATCH if on_cpu and sum(p.numel() for p in model.parameters()) > LARGE else share
    sizes: list[int] = []
    for size in range(min(share, most), 0, -1):
        if share % size == 0 and (not sizes or 2 * size <= sizes[-1]):
            sizes.append(size)
    return sizes


def fits_memory(model: nn.Module, inputs: dict[str, Tensor], autocast: Context) -> bool:
    """Whether a training step of a batch fits into the memory of the device; leaves model and random numbers as is."""
    device, numpy_state = next(model.parameters()).device, np.random.get_state()
    try:
        weights = [parameter for parameter in model.parameters() if parameter.requires_grad]
        moments = [torch.empty_like(weight) for weight in weights for _ in range(2)]  # which AdamW will keep
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            with autocast():
                loss = model.train()(**inputs).logits.float().sum()
            loss.backward()
        del moments
        return True
    except torch.OutOfMemoryError:
        return False
    finally:
        np.random.set_state(numpy_state)
        model.zero_grad(set_to_none=True)
        if device.type == "cuda":
            torch.cuda.empty_cache()
