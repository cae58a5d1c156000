"""Public names of a package that are imported on first use (PEP 562)."""

from __future__ import annotations

import ast
import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any


def lazy_names(package: str, file: str) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """The `__getattr__` and `__dir__` of a package whose names are those that its `file` imports `if TYPE_CHECKING`."""
    tree = ast.parse(Path(file).read_text(encoding="utf-8"))
    block = next(node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")
    imports = (node for node in block.body if isinstance(node, ast.ImportFrom))
    origins = {alias.name: str(node.module) for node in imports for alias in node.names}

    def get(name: str) -> Any:
        if name not in origins:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        whole = f"{origins[name]}.{name}"
        try:
            value = importlib.import_module(whole)
        except ModuleNotFoundError as error:
            if error.name != whole:
                raise
            value = getattr(importlib.import_module(origins[name]), name)  # no module, but a name of one
        setattr(sys.modules[package], name, value)  # found directly from now on
        return value

    return get, lambda: sorted(origins)
