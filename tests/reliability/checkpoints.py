"""Damaged checkpoints: each weight removed, spoiled or of another shape; each number of the config impossible."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from tests.helpers import tiny
from tests.reliability import Case
from urbansound_hf.inference.classifier import SoundClassifier

SPOILED: dict[str, Callable[[torch.Tensor], torch.Tensor | None]] = {
    "missing": lambda weight: None,
    "NaN": lambda weight: weight * torch.nan,
    "infinite": lambda weight: weight - torch.inf,
    "integers": lambda weight: weight.int(),
    "half as long": lambda weight: weight[: max(1, len(weight) // 2)].clone() if len(weight) > 1 else weight.repeat(2),
}
FILES = ("model.safetensors", "config.json", "preprocessor_config.json")
SOUND = np.random.default_rng(0).uniform(-0.3, 0.3, 16_000).astype(np.float32)


def serve(intact: Path, folder: Path, change: Callable[[Path], None], expected: list[float], same: bool) -> str:
    """Opens a changed copy and classifies; what answers must give the scores of the intact checkpoint, if `same`."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(intact, folder)
    change(folder)
    scores = SoundClassifier.from_pretrained(folder, None, "cpu", False, "torch").probabilities([SOUND])[0]
    assert np.isfinite(scores).all(), "scores that are not finite"
    assert not same or np.allclose(scores, expected, atol=1e-5), "a silent wrong answer"
    return "answered"


def spoil(key: str, how: Callable[[torch.Tensor], torch.Tensor | None], folder: Path) -> None:
    stored = load_file(folder / FILES[0])
    changed = how(stored.pop(key))
    stored |= {} if changed is None else {key: changed}
    save_file(stored, folder / FILES[0], metadata={"format": "pt"})


def rewrite(name: str, key: str, value: Any, folder: Path) -> None:
    content = json.loads((folder / name).read_text(encoding="utf-8")) | {key: value}
    (folder / name).write_text(json.dumps(content), encoding="utf-8")


def cut(name: str, share: float, folder: Path) -> None:
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[: int(share * len(content))])


def cases(root: Path) -> Iterator[Case]:
    intact, folder = tiny.save("yamnet", root / "intact", clip_seconds=1.0), root / "damaged"
    expected = SoundClassifier.from_pretrained(intact, None, "cpu", False, "torch").probabilities([SOUND])[0]
    case = partial(serve, intact, folder, expected=expected)
    weights = load_file(intact / FILES[0])
    for key in [name for name, weight in weights.items() if weight.is_floating_point()][:16]:
        for name, how in SPOILED.items():
            yield f"{key} {name}", partial(case, partial(spoil, key, how), same=True)
    for name in FILES:
        for share in (0.0, 0.1, 0.5, 0.9):
            yield f"{name}, {share:.0%} of it", partial(case, partial(cut, name, share), same=True)
        yield f"{name} missing", partial(case, partial(lambda each, to: (to / each).unlink(), name), same=True)
    for name in FILES[1:]:
        for key, value in json.loads((intact / name).read_text(encoding="utf-8")).items():
            if isinstance(value, int | float) and not isinstance(value, bool):
                for wrong in (-1, 0, 1e300, "x", [1]):
                    yield f"{name}: {key} is {wrong!r}", partial(case, partial(rewrite, name, key, wrong), same=False)
