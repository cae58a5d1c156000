"""Classifies the sounds of a manifest with Ray Data: decoded on CPUs, scored by SoundClassifier actors, to Parquet.

    python examples/ray_data.py sounds.txt --model DIR_OR_HUB_ID --output labels/ [--actors 2] [--gpus 1]

A row is a window: path, start, end, label, score; a sound that cannot be read has its error. Each sound is decoded as a
whole: for recordings of hours, `urbansound-hf infer --shard I/N` reads in blocks.
"""

from __future__ import annotations

import argparse
from functools import partial
from typing import Any

import numpy as np
import ray

import urbansound_hf as ush
from urbansound_hf.audio.io import AudioError, to_float_wav
from urbansound_hf.inference.inputs import listed

COLUMNS = ("path", "start", "end", "label", "score", "error")


def decode(row: dict[str, Any], sampling_rate: int) -> dict[str, Any]:
    """Adds the sound, mono at the model's rate, as the bytes of a WAV file; or why it cannot be read."""
    try:
        return {**row, "sound": to_float_wav(ush.load_audio(row["path"], sampling_rate), sampling_rate), "error": ""}
    except AudioError as error:
        return {**row, "sound": b"", "error": error.what}


class Classify:
    """An actor with a model of its own."""

    def __init__(self, model: str) -> None:
        self.classifier = ush.SoundClassifier.from_pretrained(model)

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, list]:
        """A batch of decoded sounds → rows of windows."""
        rows = []
        readable = [sound for sound, error in zip(batch["sound"], batch["error"], strict=True) if not error]
        results = self.classifier.classify_many(readable, top_k=1)
        for path, error in zip(batch["path"], batch["error"], strict=True):
            result = None if error else next(results)
            for window in result.windows if result else ():
                rows.append((path, window.start, window.end, window.label, window.score, ""))
            if error or result.error:
                rows.append((path, None, None, None, None, error or result.error))
        return {name: [row[place] for row in rows] for place, name in enumerate(COLUMNS)}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("manifest", help="a path or an address a line")
    parser.add_argument("--model", required=True)
    parser.add_argument("--output", required=True, help="folder of the Parquet files")
    parser.add_argument("--actors", type=int, default=1)
    parser.add_argument("--gpus", type=float, default=0, help="GPUs of each actor")
    parser.add_argument("--batch_size", type=int, default=64, help="sounds that an actor gets at a time")
    args = parser.parse_args(argv)
    rate = ush.load_feature_extractor(args.model).sampling_rate
    sounds = ray.data.from_items([{"path": path} for path in listed(args.manifest)])
    decoded = sounds.map(partial(decode, sampling_rate=rate), num_cpus=1)
    scored = decoded.map_batches(
        Classify, fn_constructor_args=(args.model,), batch_size=args.batch_size,
        compute=ray.data.ActorPoolStrategy(size=args.actors), num_cpus=1, num_gpus=args.gpus,
    )  # fmt: skip
    scored.write_parquet(args.output)


if __name__ == "__main__":
    main()
