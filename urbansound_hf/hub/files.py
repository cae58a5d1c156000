"""The files of a run that are uploaded, without tokens, paths or user names of this machine."""

from __future__ import annotations

import getpass
import json
import mmap
import re
from collections.abc import Iterable, Mapping
from fnmatch import fnmatch
from pathlib import Path

from urbansound_hf import layout
from urbansound_hf.errors import UserError, redacted
from urbansound_hf.evaluation.runs import Run

WEIGHTS = ("model.safetensors", "model-*-of-*.safetensors", "model.safetensors.index.json")
MODEL = (*WEIGHTS, layout.MODEL_CONFIG, layout.EXTRACTOR_CONFIG)
ONNX = ("onnx/*.onnx", "onnx/*.onnx_data", layout.ONNX_EXPORT)
RESULTS = (layout.CARD, layout.METRICS, layout.REPORT_NUMBERS, layout.PREDICTIONS, "*.onnx", "*.onnx_data", *ONNX)
"""predictions.csv has the names of the clips and no audio; every number of the card can be computed from it."""
TEXTS = (".json", ".md", ".csv", ".py")
TOKEN = re.compile(r"\bhf_[A-Za-z0-9]{20,}\b")

File = Path | bytes


def model_files(folder: Path) -> dict[str, File]:
    """The files of a checkpoint that a pipeline opens, by name: no optimizer, no training arguments."""
    return selected(folder, [*MODEL, *_code(folder)])


def run_files(folder: Path, card: str | None = None) -> dict[str, File]:
    """The files of a finished run that are uploaded: the model, its card (`card`, if given), its metrics and figures.

    Text files that name a token or a path of this machine (the run's, those of its receipt, the user's home) are
    replaced by an anonymized copy. Raises UserError if the run is not finished, or a binary file names such a path.
    """
    if not layout.finished(folder):
        inside = sorted(path.parent for path in folder.glob(f"*/{layout.RECEIPT}"))
        fix = f"give one run: {', '.join(map(str, inside[:10]))}" if inside else "let the training finish"
        raise UserError(f"this is not a finished run: it has no {layout.RECEIPT}", str(folder), fix)
    files = selected(folder, [*MODEL, *RESULTS, "*.png", *_code(folder)])
    private = private_paths(folder)
    checked = {name: _anonymized_file(path, private) for name, path in files.items() if isinstance(path, Path)}
    return checked | ({layout.CARD: anonymized(card, private).encode()} if card else {})


def describes_model(name: str) -> bool:
    """Whether a file in a repository belongs to one model, so that it is deleted when another model is pushed."""
    return any(fnmatch(name, pattern) and name.count("/") == pattern.count("/") for pattern in (*MODEL, *RESULTS))


def private_paths(folder: Path) -> dict[str, str]:
    """The paths of this machine that files of the run may name, longest first, each with its public replacement."""
    words = re.split(r'[=,\s"]+', json.dumps(Run(folder).receipt, ensure_ascii=False))
    paths = {Path(part) for part in words if Path(part).is_absolute() and len(Path(part).parts) > 1}
    paths |= {folder.absolute(), folder.resolve(), Path.cwd()}
    names = {str(path): path.name for path in paths} | {str(Path.home()): "~"}
    return dict(sorted(names.items(), key=lambda item: -len(item[0])))


def anonymized(text: str, private: Mapping[str, str]) -> str:
    """The text without tokens, without the given paths, and without folders named after the user."""
    for path, name in private.items():
        text = re.sub(rf"(?<![\w.~/-]){re.escape(path)}(?![\w-])", name, text)
    text = re.sub(rf"(?<![\w.~/:])(?:/[\w.-]+)*/{re.escape(getpass.getuser())}(?![\w.-])", "~", text)
    return TOKEN.sub("$HF_TOKEN", redacted(text))


def selected(folder: Path, patterns: Iterable[str]) -> dict[str, File]:
    """The files of a folder that match a pattern, by their path in it."""
    paths = {path for pattern in patterns for path in folder.glob(pattern) if path.is_file()}
    return {path.relative_to(folder).as_posix(): path for path in sorted(paths)}


def _code(folder: Path) -> list[str]:
    """The modules that the configs name as code of the model, for `trust_remote_code`."""
    configs = [path for name in (layout.MODEL_CONFIG, layout.EXTRACTOR_CONFIG) if (path := folder / name).is_file()]
    maps = json.dumps([json.loads(path.read_text(encoding="utf-8")).get("auto_map") for path in configs])
    return sorted({f"{module}.py" for module in re.findall(r"(\w+)\.\w+", maps)})


def _anonymized_file(path: Path, private: Mapping[str, str]) -> File:
    if path.suffix in TEXTS:
        text = path.read_text(encoding="utf-8")
        clean = anonymized(text, private)
        return path if clean == text else clean.encode()
    if not path.stat().st_size:  # an empty file cannot be mapped
        return path
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        for secret in private:
            if len(secret) > 5 and content.find(secret.encode()) >= 0:  # shorter ones occur in weights by chance
                what = f"the file names a path of this machine, {secret}"
                raise UserError(what, str(path), "export it again from another folder, or remove it from the run")
    return path
