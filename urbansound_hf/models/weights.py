"""A fingerprint of the weights of a checkpoint, without torch."""

import hashlib
import json
from pathlib import Path


def weights_fingerprint(folder: Path) -> str:
    """A SHA-256 of the weights by size, names and the first 4 KiB of each tensor, in milliseconds; "" without any.

    Training changes the first values of each tensor that it trains: a checkpoint newer than its export is recognised.
    """
    digest, files = hashlib.sha256(), sorted(folder.glob("*.safetensors"))
    try:
        for path in files:
            with path.open("rb") as file:
                size = int.from_bytes(file.read(8), "little")
                header = file.read(size)
                digest.update(header + str(path.stat().st_size).encode())
                for name, entry in sorted(json.loads(header).items()):
                    if name != "__metadata__":
                        start, end = entry["data_offsets"]
                        file.seek(8 + size + start)
                        digest.update(file.read(min(end - start, 4096)))
    except (ValueError, TypeError, KeyError, OverflowError, MemoryError, AttributeError):
        return "damaged"  # PyTorch's loader says how
    return digest.hexdigest() if files else ""
