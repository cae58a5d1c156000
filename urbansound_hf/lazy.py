"""Public names of a package that are imported on first use (PEP 562)."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any


def lazy_names(
    package: str, modules: Mapping[str, Sequence[str]], submodules: Mapping[str, str] | None = None
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """The `__getattr__` and `__dir__` of a package whose public names wait in its modules.

    Args:
        package: its `__name__`.
        modules: public names by the module that defines them, relative to the package.
        submodules: public name → module that is itself the value, relative to the package.
    """
    origins = {name: module for module, names in modules.items() for name in names}
    whole = submodules or {}

    def get(name: str) -> Any:
        if name in origins:
            value = getattr(importlib.import_module(f"{package}.{origins[name]}"), name)
        elif name in whole:
            value = importlib.import_module(f"{package}.{whole[name]}")
        else:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        setattr(sys.modules[package], name, value)  # found directly from now on
        return value

    return get, lambda: sorted({*origins, *whole})
