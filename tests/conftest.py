"""What the tests share: no network, little logging, and the way to the real clips and weights."""

from __future__ import annotations

import atexit
import gc
import os
import shutil
import signal
import sys
import tempfile
from base64 import b64decode
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # two test processes share two cores
if "HF_DATASETS_CACHE" not in os.environ:  # shared by the processes of one test run, and gone with it
    os.environ["HF_DATASETS_CACHE"] = tempfile.mkdtemp(prefix="urbansound-tests-")
    atexit.register(shutil.rmtree, os.environ["HF_DATASETS_CACHE"], ignore_errors=True)

import pytest

if TYPE_CHECKING:  # the fixtures import what they need: most tests do not wait for torch
    from urbansound_hf.config.arguments import RunConfig
    from urbansound_hf.data.loading import Sounds

ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared"
REAL_DATA = SHARED / "data" / "urbansound8k"
OFFICIAL_CSV = SHARED / "data" / "UrbanSound8K.official.csv"
WHISPER = SHARED / "models" / "whisper-tiny.en"
YAMNET = SHARED / "models" / "yamnet"

TINY = """
model_name_or_path: wav2vec2  # 5,462 parameters
model_config:
  - hidden_size=16
  - num_hidden_layers=2
  - num_attention_heads=2
  - intermediate_size=16
  - conv_dim=[8,8,8,8,8,8,8]
  - num_conv_pos_embeddings=4
  - num_conv_pos_embedding_groups=2
  - classifier_proj_size=8
  - initializer_range=0.3  # random weights that tell clips apart
  - mask_time_prob=0
  - layerdrop=0
  - attention_dropout=0
  - activation_dropout=0
  - hidden_dropout=0
  - feat_proj_dropout=0
  - final_dropout=0
freeze: none
learning_rate: 1e-3
per_device_train_batch_size: 8
gradient_accumulation_steps: 1
max_steps: 4
eval_strategy: steps
eval_steps: 2
save_strategy: steps
save_steps: 2
logging_steps: 1
use_cpu: true
bf16: false
disable_tqdm: true
preprocessing_num_workers: 1
"""


EMPTY_PNG = b64decode("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+kcQAAAABJRU5ErkJggg==")


@pytest.fixture(scope="session")
def synthetic_root() -> Path:
    """A synthetic UrbanSound8K of one clip a class and fold."""
    from urbansound_hf.data import synthetic

    return synthetic.synthetic_dataset(
        Path(os.environ["HF_DATASETS_CACHE"]) / "synthetic_of_the_tests", clips_per_class_and_fold=1
    )


@pytest.fixture(scope="session")
def sounds(synthetic_root) -> Sounds:
    """The same, decoded at 16 kHz: 100 clips, most of them of 4 s."""
    from urbansound_hf.data.loading import SoundRequest, load_sounds

    return load_sounds(SoundRequest("urbansound8k", data_dir=str(synthetic_root), num_proc=1))


@pytest.fixture(scope="session")
def pairs(synthetic_root, tmp_path_factory) -> Path:
    """A folder of sounds with two labels each: the synthetic clips mixed in pairs, with their folds."""
    from benchmarks.pairs import write_pairs

    return write_pairs(synthetic_root, tmp_path_factory.mktemp("pairs"))


@pytest.fixture(scope="module")
def plain_reports() -> Iterator[Callable[..., None]]:
    """Figures are made but not drawn, mistakes not encoded: most of a short run, in modules whose tests open neither.

    Returns `Figure.savefig`, which draws them.
    """
    from matplotlib.figure import Figure

    from urbansound_hf.reports import html

    def save(_: Figure, file: str | Path, **__: object) -> None:
        Path(file).write_bytes(EMPTY_PNG)

    draw = Figure.savefig
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Figure, "savefig", save)
        patch.setattr(html, "encoded", lambda _: {"audio": "data:,", "image": "data:,"})
        yield draw


@pytest.fixture
def configure(tmp_path) -> Callable[..., RunConfig]:
    """Parses flags over the config of a tiny, deterministic wav2vec2 that trains for four steps on the CPU."""
    from urbansound_hf.config.parse import parse_run_config

    (tmp_path / "tiny.yaml").write_text(TINY, encoding="utf-8")
    return lambda *argv: parse_run_config([str(part) for part in argv], tmp_path / "tiny.yaml")


def pytest_collection_finish() -> None:
    """What the imports left lives as long as the process: no collection of garbage walks through it again."""
    gc.freeze()


@pytest.fixture(scope="module", autouse=True)
def late_imports_are_kept_out_of_collections() -> Iterator[None]:
    """Nor through what a module's tests imported while they ran."""
    yield
    gc.freeze()


FIRST = {
    "test_tour.py", "test_examples.py", "test_wheel.py", "test_accelerate.py", "test_app.py", "test_run.py",
    "test_api.py", "test_cross_validation.py", "test_inherited_flags.py", "test_shipped_configs.py",
    "test_preflight.py",
}  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.path.name not in FIRST)  # long ones at the end would leave a core idle
    if SHARED.is_dir():
        return
    for item in items:
        if "real" in item.keywords:
            item.add_marker(pytest.mark.skip(reason=f"needs the real clips and weights in {SHARED}"))


@pytest.fixture(autouse=True)
def nothing_left_in_the_process():
    """No DeepSpeed config, which Transformers keeps even if refused; no handler of signals, which forks inherit."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    if module := sys.modules.get("transformers.integrations.deepspeed"):
        module.unset_hf_deepspeed_config()
    left = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    assert left == handlers
