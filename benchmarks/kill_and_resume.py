"""Ends `infer.py` with kill -9 at random moments, continues it, and compares with an uninterrupted call.

    python -m benchmarks.kill_and_resume --model CHECKPOINT --clips FOLDER [--count 5000] [--kills 20]

FOLDER's sounds are linked until there are `count`. The rows must be the same in order and label, scores to 1e-5.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from itertools import cycle, islice
from pathlib import Path

import numpy as np

from urbansound_hf.audio.files import find_audio_files

ROOT = Path(__file__).resolve().parent.parent


def main() -> int:
    """Prints the kills and the comparison; 1 if the rows differ."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("--clips", type=Path, required=True)
    parser.add_argument("--count", type=int, default=5000)
    parser.add_argument("--kills", type=int, default=20)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for number, clip in enumerate(islice(cycle(find_audio_files(arguments.clips).sounds), arguments.count)):
            Path(folder, f"{number:06}{clip.suffix}").symlink_to(clip.resolve())
        command = [sys.executable, str(ROOT / "infer.py"), folder, "--model", arguments.model, "--quiet", "--output"]
        started = time.monotonic()
        subprocess.run([*command, f"{folder}/whole.jsonl"], check=False)
        seconds = time.monotonic() - started
        part, draw, kills = Path(f"{folder}/parts.jsonl.part"), np.random.default_rng(0), 0
        parts = [*command, f"{folder}/parts.jsonl", "--resume"]
        while kills < arguments.kills:
            process, before = subprocess.Popen(parts), part.stat().st_mtime if part.exists() else 0.0
            while process.poll() is None and (not part.exists() or part.stat().st_mtime == before):
                time.sleep(0.01)  # until it classifies
            time.sleep(draw.uniform(0, seconds / arguments.kills))
            if process.poll() is not None:
                break
            process.kill()
            process.wait()
            kills += 1
            kept = part.read_text(encoding="utf-8").count('"done"') if part.exists() else 0
            print(f"kill {kills}: {kept:,} sounds are kept", flush=True)
        subprocess.run(parts, check=False)
        whole, resumed = (read(Path(f"{folder}/{name}.jsonl")) for name in ("whole", "parts"))
    same = [row[:-1] for row in whole] == [row[:-1] for row in resumed]
    difference = max(abs(a[-1] - b[-1]) for a, b in zip(whole, resumed, strict=True))
    print(f"{kills} kills, {len(whole):,} rows: {'the same' if same else 'different'}, scores to {difference:.1e}")
    return int(not same or difference > 1e-5)


def read(path: Path) -> list[tuple]:
    """Path, times, label and error of each row; its score is last."""
    records = map(json.loads, path.read_text(encoding="utf-8").splitlines())
    return [(r["path"], r.get("start"), r.get("end"), r.get("label"), r.get("error"), r.get("score", 0.0))
            for r in records]  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
