"""Every command that writes, on disks that become full at different moments, are read-only, or are not there.

A full disk is a small tmpfs, so these cases need the right to mount one (`reason`). A case fails if there is a
traceback, no line with path and space, a half-written file under a final name, or a different set of files once the
disk has space and the same command runs again.
"""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from tests.conftest import TINY, YAMNET
from tests.helpers import tiny
from tests.helpers.processes import exit_status, fork
from tests.helpers.runs import finish, write_run
from tests.helpers.zenodo_server import serve
from tests.reliability import Case
from urbansound_hf import cli
from urbansound_hf.errors import exit_code, writing

SHARES = (0.0, 0.3, 0.6, 0.9)
"""Sizes of the full disks, as shares of what the command writes."""
LATER = {"checkpoints", "tensorboard", ".lock", ".part", ".tmp", ".db", ".etag"}
"""Of unfinished work: not files that a reader would take for results."""


@contextmanager
def disk(folder: Path, size: int) -> Iterator[Path]:
    """A tmpfs of `size` bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={max(size, 4096)}", "tmpfs", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def reason() -> str:
    """Why no disk can be mounted here; "" if one can."""
    if sys.platform != "linux":
        return "small disks are mounted on Linux only"
    with tempfile.TemporaryDirectory() as folder:
        words = ["mount", "-t", "tmpfs", "-o", "size=4096", "tmpfs", folder]
        tried = subprocess.run(words, capture_output=True, text=True, check=False)
        if tried.returncode:
            return f"no right to mount a disk: {tried.stderr.strip()}"
        subprocess.run(["umount", folder], check=True)
    return ""


def commands(root: Path) -> dict[str, Callable[[Path], int | None]]:
    """By name, a command that writes below the folder it gets; its inputs are made in `root`."""
    from urbansound_hf.data import synthetic
    from urbansound_hf.data.download import fetch
    from urbansound_hf.hub.space import write_space

    sounds = synthetic.synthetic_dataset(root / "sounds", clips_per_class_and_fold=1)
    clips = sorted(sounds.glob("audio/fold1/*.wav"))[:3]
    model = tiny.save("yamnet", root / "model", clip_seconds=1.0)
    (root / "tiny.yaml").write_text(TINY, encoding="utf-8")
    served = {"--model": model, "--device": "cpu"}

    def train(to: Path, **flags: object) -> int:
        given = {"data_dir": sounds, "test_fold": 1, "output_dir": to / "run", "max_steps": 2, **flags}
        words = [str(word) for name, value in given.items() for word in (f"--{name}", value)]
        return cli.train([str(root / "tiny.yaml"), "--quiet", *words])

    def infer(to: Path, *words: str) -> int:
        flags = [str(word) for pair in served.items() for word in pair]
        return cli.infer([*map(str, clips), *flags, "--quiet", *(word.format(to=to) for word in words)])

    def report(to: Path) -> int:
        for fold in (1, 2):
            run = to / f"cv/fold{fold}"
            if not (run / "run.json").exists():
                shutil.rmtree(run, ignore_errors=True)
                with writing(to):
                    shutil.rmtree(partial := run.with_suffix(".part"), ignore_errors=True)
                    finish(write_run(partial, fold)).rename(run)
        return cli.run(["crossval", str(to / "cv")])

    def prepare(to: Path) -> int:
        import datasets

        datasets.config.HF_DATASETS_CACHE = to / "cache"
        return cli.run(["data", "--data_dir", str(sounds), "--quiet", "--num_proc", "1"])

    def download(to: Path) -> None:
        with serve(bytes(range(256)) * 2000) as files:
            fetch(files.url, to / "sounds.tar.gz", files.md5, attempts=1, backoff_seconds=0.01)

    def export(to: Path) -> int:
        with writing(to):
            if not (to / "model").exists():
                shutil.rmtree(to / "model.part", ignore_errors=True)
                shutil.copytree(model, to / "model.part").rename(to / "model")
        return cli.run(["export", str(to / "model")])

    published = YAMNET / "model.onnx"
    real = {"models convert": lambda to: cli.run(["models", "yamnet", "convert", str(published), str(to / "yamnet")])}
    return {
        "train": train,
        "a linear probe": partial(train, freeze="backbone"),
        "cross-validation": partial(train, test_fold="1,2"),
        "search": partial(train, search=2, search_space="learning_rate=1e-4..1e-1"),
        "report of a cross-validation": report,
        "data prepare": prepare,
        "data synthetic": lambda to: cli.run(["data", "synthetic", str(to / "set"), "--clips", "1"]),
        "download": download,
        "a Space": lambda to: write_space(to / "space", str(model), "title"),
        "infer to CSV": lambda to: infer(to, "--output", "{to}/scores.csv"),
        "infer to JSON lines": lambda to: infer(to, "--output", "{to}/scores.jsonl"),
        "infer to Parquet": lambda to: infer(to, "--output", "{to}/scores.parquet"),
        "embeddings": lambda to: infer(to, "--embeddings", "{to}/embeddings.parquet"),
        "events": lambda to: infer(to, "--events", "--output", "{to}/events.csv"),
        "label files": lambda to: infer(to, "--format", "audacity", "--output", "{to}/labels"),
        "plots of infer": lambda to: infer(to, "--plot", "{to}/plots"),
        "figures": lambda to: cli.run(["figures", str(clips[0]), "--output", str(to / "figures")]),
        "ONNX export": export,
        **(real if published.is_file() else {}),
    }


def logged(command: Callable[[], int | None], log: Path, temporary: Path) -> None:
    """Runs a command with its output in a file, and leaves with its exit code."""
    with log.open("w", encoding="utf-8") as file:
        os.dup2(file.fileno(), 2)
        os.dup2(file.fileno(), 1)
        sys.stderr = sys.stdout = file
        os.environ["TMPDIR"] = str(temporary)
        code = 1
        try:
            code = exit_code(command)
        except Exception:
            traceback.print_exc()
        file.flush()
        os._exit(code)


def once(command: Callable[[Path], int | None], to: Path, log: Path) -> tuple[int, str]:
    """Runs a command in a fork; returns its exit code and what it wrote to standard error."""

    work = partial(logged, lambda: command(to), log, to)
    return exit_status(fork(work)), log.read_text(encoding="utf-8", errors="replace")


def files(folder: Path) -> dict[str, Path]:
    """The files of results below a folder by their relative names; a hash in a name is replaced."""
    found = (path for path in sorted(folder.rglob("*")) if path.is_file())
    named = {"/".join(path.relative_to(folder).parts): path for path in found}
    return {name: path for name, path in named.items() if not any(part in f"/{name}" for part in LATER)}


def half(path: Path, reference: Path) -> bool:
    """Whether a file is incomplete, judged by its format and by the complete one."""
    content, whole = path.read_bytes(), reference.read_bytes()
    try:
        if path.suffix in (".json", ".jsonl"):
            [json.loads(line) for line in (content.splitlines() if path.suffix == ".jsonl" else [content])]
            return content.count(b"\n") < whole.count(b"\n") * 0.9
        if path.suffix == ".csv":
            rows, wanted = (list(csv.reader(part.decode().splitlines())) for part in (content, whole))
            return len(rows) != len(wanted) or len(rows[-1]) != len(wanted[-1])
        if path.suffix == ".png":
            return not content.endswith(b"IEND\xaeB`\x82")
        if path.suffix == ".parquet":
            return not content.endswith(b"PAR1")
        if path.suffix in (".html", ".md", ".txt"):
            return content[-20:].strip() != whole[-20:].strip()
    except (ValueError, IndexError):
        return True
    return len(content) < 0.98 * len(whole)


def check(command: Callable[[Path], int | None], to: Path, size: int, reference: Mapping[str, Path], log: Path) -> str:
    """One full disk: the error, what is left, and the same command with space."""
    with disk(to, size):
        code, said = once(command, to, log)
        assert "Traceback" not in said, f"traceback: {said[-900:]}"
        if code == 0:
            lost = sorted(set(reference) - set(files(to)))
            assert not lost, f"loss: exit code 0 without {lost}: {said[-300:]}"
            return "fits"
        assert code in (1, 2), f"exit code {code}: {said[-600:]}"
        assert "MiB are free" in said, f"no space named: {said[-600:]}"
        assert str(to) in said, f"no path named: {said[-600:]}"
        finals = files(to)
        broken = [name for name in finals if name in reference and half(finals[name], reference[name])]
        broken = [name for name in broken if not unfinished(finals[name])]
        assert not broken, f"half-built: {broken}: {said[-300:]}"
        subprocess.run(["mount", "-o", "remount,size=64m", str(to)], check=True)
        code, said = once(command, to, log)
        if code == 2 and "--resume" in said:  # as the message advises
            return "refused, then continued by hand"
        assert code == 0, f"loss: the command does not continue once there is space: {said[-900:]}"
        lost = sorted(set(reference) - set(files(to)))
        assert not lost, f"loss: the second call left out {lost}"
        finals = files(to)
        broken = [name for name in finals if name in reference and half(finals[name], reference[name])]
        assert not broken, f"half-built after the second call: {broken}"
    return "refused, then complete"


def unfinished(path: Path) -> bool:
    """Whether a file is one of a run without a receipt, of sounds being prepared, or of a set without a table."""
    parts = [path.parent, *path.parents]
    return (
        any((each / "checkpoints").is_dir() and not (each / "run.json").exists() for each in parts[:3])
        or any(part.suffix == ".incomplete" or part.name.endswith(".incomplete") for part in parts)
        or ("audio" in path.parts and not any((each / "metadata/UrbanSound8K.csv").exists() for each in parts))
    )


def unwritable(command: Callable[[Path], int | None], to: Path, log: Path, readonly: bool) -> str:
    """A disk that is read-only, or a folder that cannot be made."""
    if readonly:
        with disk(to, 2**24):
            subprocess.run(["mount", "-o", "remount,ro", str(to)], check=True)
            code, said = once(command, to, log)
    else:
        to = Path("/proc/nowhere")
        code, said = once(command, to, log)
    assert "Traceback" not in said, f"traceback: {said[-900:]}"
    assert code in (1, 2), f"exit code {code}: {said[-600:]}"
    assert str(to) in said, f"no path named: {said[-600:]}"
    assert len([line for line in said.splitlines() if line.startswith("error:")]) <= 1, f"several lines: {said[-600:]}"
    return "refused"


def cases(root: Path) -> Iterator[Case]:
    for number, (name, command) in enumerate(commands(root).items()):
        whole, log = root / f"whole{number}", root / f"log{number}"
        whole.mkdir()
        code, said = once(command, whole, log)
        assert code == 0, f"{name} fails with space: {said[-900:]}"
        reference = files(whole)
        size = sum(path.stat().st_size for path in whole.rglob("*") if path.is_file())
        for share in SHARES:
            to = root / f"disk{number}-{share}"
            yield f"{name}, {share:.0%} of the space", partial(check, command, to, int(share * size), reference, log)
        for readonly in (True, False):
            to = root / f"disk{number}-{readonly}"
            place = "read-only" if readonly else "nowhere"
            yield f"{name}, {place}", partial(unwritable, command, to, log, readonly)
