"""Arrows between modules point down only, and layers 0 and 1 stay light."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "urbansound_hf"
LAYERS = [
    ["__init__", "labels", "errors"],
    [
        "progress", "audio", "duplicates", "leaks", "folds", "statistics", "metrics", "receipts", "runs", "measures",
        "procedural", "synthetic", "download", "prepare", "metadata", "streaming", "urbansound8k", "tables", "stored",
        "sounds",
    ],
    [
        "features", "spectra", "effects", "augment", "masks", "mixing", "flags", "recipe", "rules", "search_space",
        "config", "augmented", "models.short_context", "models.cnn", "models.yamnet", "models.convert_yamnet",
        "models.heads", "models.layer_sum", "models.clap_audio", "models.ecapa_tdnn", "models.convert_ecapa",
        "models", "models.checkpoint", "models.catalogue", "models.adapt", "models.lora", "models.probe",
        "models.probe_first", "models.zero_shot",
    ],
    ["training_bar", "averaging", "trainer", "rows", "training", "inputs", "output", "predict", "explain"],
    [
        "figures", "pictures", "timeline", "markdown", "weaknesses", "reproduction", "card", "comparison",
        "dataset_figures", "embedding_map", "run_figures", "gallery", "media", "page", "listen", "interface", "app",
        "space", "report", "published", "trouble", "hub", "hub_dataset", "pushing", "plan", "search_report", "search",
        "crossval", "models.__main__", "augment_tour",
    ],
]  # fmt: skip
ORDER = [module for layer in LAYERS for module in layer]
MODULES = sorted(
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")
    for path in PACKAGE.rglob("*.py")
)


class RunTime(ast.NodeTransformer):
    """Drops what only the type checker imports."""

    def visit_If(self, node: ast.If) -> ast.If | None:  # the name that ast asks for
        return None if ast.unparse(node.test) == "TYPE_CHECKING" else node


def imported(module: str) -> set[str]:
    """Every module that `module` imports, as dotted names; those of ours without the package's name."""
    path = PACKAGE.joinpath(*module.split("."))
    tree = ast.parse((path / "__init__.py" if path.is_dir() else path.with_suffix(".py")).read_text())
    found: set[str] = set()
    for node in ast.walk(RunTime().visit(tree)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return {name.removeprefix("urbansound_hf.") for name in found}


def test_every_module_has_its_place():
    assert sorted(ORDER) == MODULES


@pytest.mark.parametrize("module", ORDER)
def test_arrows_point_down(module):
    others = imported(module) & set(ORDER) - {module}  # a package may name itself, to find its own modules
    upward = [other for other in others if ORDER.index(other) > ORDER.index(module)]
    assert not upward, f"{module} imports {upward}, which stand above it"


@pytest.mark.parametrize("module", LAYERS[0] + LAYERS[1])
def test_the_lower_layers_need_no_torch(module):
    heavy = {name.split(".")[0] for name in imported(module)} & {"torch", "torchaudio", "transformers", "accelerate"}
    assert not heavy


@pytest.mark.parametrize("module", LAYERS[0])
def test_the_lowest_layer_is_standard_library_only(module):
    import sys

    assert {name.split(".")[0] for name in imported(module)} <= set(sys.stdlib_module_names) | {"__future__"}


def test_serving_knows_nothing_of_training():
    reached, waiting = set(), ["predict"]
    while waiting:
        module = waiting.pop()
        reached.add(module)
        waiting += [other for other in imported(module) & set(ORDER) if other not in reached]
    assert not reached & {"training", "folds", "crossval", "report", "config"}


def test_only_training_knows_trainer_and_only_models_load_weights():
    for module in ORDER:
        names = imported(module)
        assert ("transformers.Trainer" in names) <= (module == "trainer")
        assert ("transformers.AutoModelForAudioClassification" in names) <= module.startswith(("models", "predict"))


if __name__ == "__main__":  # the picture that the README shows
    for number, layer in reversed(list(enumerate(LAYERS))):
        print(f"layer {number}  {'  '.join(layer)}")
