"""Arrows between packages point down only; what serves or reads reports stays free of torch; no import circles."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "urbansound_hf"

ORDER = [
    "cli", "app", "training", "hub", "reports", "plots", "inference", "models", "config", "evaluation", "augment",
    "features", "data", "audio", "layout", "profiling", "text", "progress", "lazy", "errors",
]  # fmt: skip
"""Top first; a module imports from its own package and from those that stand after it."""

NO_TORCH = ("audio", "data", "evaluation", "layout", "profiling", "text", "progress", "lazy", "errors")
NOT_IN_SERVING = {"data", "config", "training", "reports", "hub", "plots", "evaluation"}
HEAVY = {"torch", "torchaudio", "transformers", "accelerate"}


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")


MODULES = {name_of(path): path for path in sorted(PACKAGE.rglob("*.py")) if path != PACKAGE / "__init__.py"}


def place(module: str) -> int:
    return ORDER.index(module.partition(".")[0])


def raw_imports(tree: ast.AST) -> Iterator[str]:
    """Every dotted name that is imported anywhere: at the top, in functions, for type checkers, by `import_module`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            called = ast.unparse(node.args[0]).strip("f'\"")
            yield called.partition(".{")[0]  # f"urbansound_hf.models.{family}" is an import from that package


def imports(module: str) -> set[str]:
    """The modules that `module` imports: ours without the package's name, others by their top-level name."""
    found = set()
    for name in raw_imports(ast.parse(MODULES[module].read_text(encoding="utf-8"))):
        if not name.startswith("urbansound_hf."):
            found.add(name.partition(".")[0])
            continue
        ours = name.removeprefix("urbansound_hf.")
        while ours and ours not in MODULES:  # the name of a function or class in the module before it
            ours = ours.rpartition(".")[0]
        found |= {ours} - {""}
    return found


IMPORTS = {module: imports(module) for module in MODULES}


def reached(*start: str) -> set[str]:
    """All of our modules that importing or running some of them can reach."""
    seen, waiting = set(), list(start)
    while waiting:
        module = waiting.pop()
        if module not in seen:
            seen.add(module)
            waiting += [other for other in IMPORTS[module] if other in MODULES]
    return seen


def test_every_package_has_its_place_and_a_sentence():
    assert {module.partition(".")[0] for module in MODULES} == {*ORDER, "__main__"}
    for package in (path.parent for path in PACKAGE.rglob("__init__.py")):
        assert ast.get_docstring(ast.parse((package / "__init__.py").read_text(encoding="utf-8"))), package


@pytest.mark.parametrize("module", sorted(set(MODULES) - {"__main__"}))
def test_arrows_point_down(module):
    upward = sorted(other for other in IMPORTS[module] & set(MODULES) if place(other) < place(module))
    assert not upward, f"{module} imports {', '.join(upward)}, which stand above it"


def test_there_are_no_import_circles():
    circles = {module for module in MODULES if module in reached(*(IMPORTS[module] & set(MODULES) - {module}))}
    assert not circles


@pytest.mark.parametrize("package", NO_TORCH)
def test_the_lower_packages_import_neither_torch_nor_transformers(package):
    for module in (module for module in MODULES if module.partition(".")[0] == package):
        assert not IMPORTS[module] & HEAVY, module


def test_errors_need_only_the_standard_library():
    assert IMPORTS["errors"] <= set(sys.stdlib_module_names)


def test_serving_reaches_nothing_of_training():
    packages = {module.partition(".")[0] for module in reached("inference.classifier", "inference.output")}
    assert not packages & NOT_IN_SERVING


def test_serving_and_reading_reports_import_no_datasets():
    serving = reached("inference.classifier", "inference.output")
    assert not [module for module in serving if "datasets" in IMPORTS[module] and module != "progress"]


def test_only_training_knows_trainer_only_models_load_weights_and_only_hub_uploads():
    for module, path in MODULES.items():
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"import .*\bTrainer\b", text) or module == "training.trainer"
        assert ("AutoModelForAudioClassification" in text) <= module.startswith("models.") or "snippet" in text
        assert ("HfApi" in text) <= module.startswith("hub.")


def test_config_stops_at_the_door_of_training():
    users = {module for module in MODULES if any(name.startswith("config.") for name in IMPORTS[module])}
    assert {module.partition(".")[0] for module in users} == {"cli", "config", "training"}


def test_modeling_files_travel_alone():
    for module in (module for module in MODULES if ".modeling_" in module):
        assert not IMPORTS[module] & set(MODULES), f"{module} goes along with checkpoints, where this package is not"


def test_the_checks_notice_what_they_are_for():
    code = """
import torch
from typing import TYPE_CHECKING
if TYPE_CHECKING:
    from urbansound_hf.training.run import save_run
def later():
    from urbansound_hf.hub import push
    import importlib
    importlib.import_module("urbansound_hf.app.views")
    importlib.import_module(f"urbansound_hf.models.{family}")
"""
    assert set(raw_imports(ast.parse(code))) >= {
        "torch", "urbansound_hf.training.run.save_run", "urbansound_hf.hub.push", "urbansound_hf.app.views",
        "urbansound_hf.models",
    }  # fmt: skip


# ---- the picture that the README shows


def sentence(package: str) -> str:
    """The first sentence of a package's docstring, or of a module's."""
    path = PACKAGE / package / "__init__.py"
    text = (path if path.is_file() else PACKAGE / f"{package}.py").read_text(encoding="utf-8")
    return (ast.get_docstring(ast.parse(text)) or "").partition("\n")[0].partition(". ")[0].rstrip(".")


def drawing() -> str:
    """The packages, top first, each with its sentence and the packages that it imports."""
    lines = []
    for package in ORDER:
        used = {other.partition(".")[0] for module in MODULES if module.partition(".")[0] == package
                for other in IMPORTS[module] & set(MODULES)} - {package}  # fmt: skip
        arrows = " ".join(sorted(used - {"errors", "lazy", "progress", "text", "layout"}, key=ORDER.index))
        lines += [f"{package:<11}{sentence(package)}"] + [f"{'':<11}→ {arrows}"] * bool(arrows)
    return "\n".join(lines)


if __name__ == "__main__":
    print(drawing())
