"""Checkpoints of interrupted runs: which are complete, and which one a run continues from."""

import json
import sys
import zipfile
from pathlib import Path

from safetensors import SafetensorError, safe_open
from transformers.trainer import (
    FSDP_MODEL_NAME,
    OPTIMIZER_NAME,
    OPTIMIZER_NAME_BIN,
    SCALER_NAME,
    SCHEDULER_NAME,
    TRAINER_STATE_NAME,
)
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME, logging

from urbansound_hf.config.arguments import RunConfig
from urbansound_hf.errors import UserError
from urbansound_hf.layout import BEGUN, finished
from urbansound_hf.training import callbacks

logger = logging.get_logger(__name__)

WEIGHTS = (SAFE_WEIGHTS_NAME, SAFE_WEIGHTS_INDEX_NAME, f"{FSDP_MODEL_NAME}_0", f"{FSDP_MODEL_NAME}.bin", "global_step*")
OPTIMIZER = (OPTIMIZER_NAME, OPTIMIZER_NAME_BIN, "optimizer_0", "global_step*")  # the others: of FSDP and DeepSpeed


def missing_parts(checkpoint: Path, config: RunConfig) -> list[str]:
    """The files, missing or damaged, without which a training cannot continue as if it had not been interrupted."""
    arguments = config.training
    needed = [WEIGHTS, OPTIMIZER, (SCHEDULER_NAME,)]
    if arguments.fp16 and arguments.device.type != "cpu" and not arguments.deepspeed:
        needed.append((SCALER_NAME,))
    if config.recipe.ema_decay:
        needed.append((callbacks.AVERAGE,))
    processes = arguments.world_size
    needed += [(f"rng_state_{index}.pth",) for index in range(processes)] if processes > 1 else [("rng_state.pth",)]
    missing = [names[0] for names in needed if not _any_readable(checkpoint, names)]
    try:
        state = json.loads((checkpoint / TRAINER_STATE_NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return [*missing, TRAINER_STATE_NAME]
    best = state.get("best_model_checkpoint") if arguments.load_best_model_at_end else None
    if best and not _any_readable(Path(best), WEIGHTS):
        missing.append(f"the best checkpoint so far, {best}")
    return missing


def complete_checkpoints(config: RunConfig, folder: Path) -> list[Path]:
    """The complete checkpoints of the run in `folder`, by step."""
    return [path for path in _checkpoints(folder) if not missing_parts(path, config)]


def interrupted(config: RunConfig, folder: Path) -> bool:
    """Whether the run in `folder` is to be continued from one of its own checkpoints."""
    arguments = config.training
    if (arguments.overwrite and finished(folder)) or str(arguments.resume_from_checkpoint).lower() == "false":
        return False
    return bool(complete_checkpoints(config, folder))


def resume_point(config: RunConfig, folder: Path) -> str | None:
    """The checkpoint to continue from: the named one (UserError if incomplete), the newest complete one, or None."""
    wanted = str(config.training.resume_from_checkpoint or "last")
    if wanted.lower() == "false":
        return None
    if wanted.lower() not in ("last", "true"):
        check_named(config)
        return wanted
    complete = complete_checkpoints(config, folder)
    if not complete:
        return None
    logger.warning("continuing the interrupted run from %s", complete[-1])
    return str(complete[-1])


def check_named(config: RunConfig) -> None:
    """Raises UserError if the checkpoint that --resume_from_checkpoint names is incomplete."""
    named = Path(str(config.training.resume_from_checkpoint))
    missing = missing_parts(named, config)
    if len(missing) > 2 and TRAINER_STATE_NAME in missing:
        what = f"{named} is not a checkpoint of Trainer's (it has no {TRAINER_STATE_NAME})"
        fix = "give outputs/<run>/<fold>/checkpoints/checkpoint-<step>, or last"
        raise UserError(what, "--resume_from_checkpoint", fix)
    if missing:
        what = f"{named} is incomplete, a training cannot continue from it: it lacks {', '.join(missing)}"
        fix = "leave --resume_from_checkpoint out; checkpoints of --save_only_model are always incomplete"
        raise UserError(what, "--resume_from_checkpoint", fix)


def report_restart(config: RunConfig, folder: Path) -> None:
    """Says on standard error why an interrupted run starts from the beginning, also with --quiet."""
    if not (folder / BEGUN).is_file() or finished(folder):
        return
    reason, saved = "it saved no checkpoint", _checkpoints(folder)
    if str(config.training.resume_from_checkpoint).lower() == "false":
        reason = "--resume_from_checkpoint false"
    elif saved:
        reason = f"{saved[-1].name} lacks {', '.join(missing_parts(saved[-1], config))}"
        reason += " (--save_only_model)" * config.training.save_only_model
    print(f"warning: the interrupted run in {folder} starts from the beginning: {reason}", file=sys.stderr)


def _checkpoints(folder: Path) -> list[Path]:
    """Trainer's checkpoints, by step."""
    found = [path for path in folder.glob("checkpoints/checkpoint-*") if path.name.split("-")[1].isdecimal()]
    return sorted(found, key=lambda path: int(path.name.split("-")[1]))


def _any_readable(checkpoint: Path, patterns: tuple[str, ...]) -> bool:
    return any(_readable(path) for pattern in patterns for path in checkpoint.glob(pattern))


def _readable(path: Path) -> bool:
    """Whether a file is there in full: a kill or a full disk leaves shorter ones."""
    if path.is_dir():
        return any(path.iterdir())
    if path.suffix == ".safetensors":
        try:
            with safe_open(path, framework="pt"):
                return True
        except (SafetensorError, OSError):
            return False
    return path.is_file() and (path.suffix == ".json" or zipfile.is_zipfile(path))
