"""Export of a checkpoint as ONNX, in the layout of Transformers.js: `onnx/model.onnx` beside its `config.json`.

    urbansound-hf export RUN [--int8]

The inputs are those of the feature extractor; the outputs are `logits` (batch, classes) and `embedding` (batch,
hidden), what the backbone gives, pooled over time. The batch is dynamic, and the time where a family allows it.
"""

import contextlib
import io
import json
import logging
import math
import shutil
import warnings
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from urbansound_hf import progress
from urbansound_hf.errors import CommandParser, UserError, write_text, writing
from urbansound_hf.features.extract import Features, as_tensors, equal_shapes, extract
from urbansound_hf.features.numpy_extractors import NumpyExtractor
from urbansound_hf.layout import EXTRACTOR_CONFIG, ONNX_EXPORT, ONNX_INT8, ONNX_MODEL
from urbansound_hf.models.adapt import LogitsAndEmbedding
from urbansound_hf.models.checkpoint import load_checkpoint
from urbansound_hf.models.registry import family_of
from urbansound_hf.models.weights import weights_fingerprint

TOLERANCE = 1e-4  # of the scores against PyTorch's
LEAST_SHARE = 0.25  # of the weights, in matrices, where 8 bits pay
EMBEDDED_BYTES = 2**26  # larger weights go to a file of their own, which ONNX Runtime maps instead of copying it


def export_onnx(run: str | Path, int8: bool = False) -> Path:
    """Writes `onnx/model.onnx` into a checkpoint folder, and compares its scores with PyTorch's.

    Args:
        run: the folder of a run.
        int8: write `onnx/model_quantized.onnx` too, with matrices in 8 bits; not where nearly all weights are
            convolutions.

    Returns:
        the folder `onnx/`.

    Raises:
        UserError: there is no such folder, the packages of the extra are not installed, the model or its feature
            extractor cannot be exported, or the scores differ by more than 1e-4.

    Examples:
        >>> ush.export_onnx("outputs/base/fold10").name
        'onnx'
    """
    folder = Path(run)
    if not folder.is_dir():
        raise UserError("there is no such folder", str(folder), "give the folder of a finished run")
    model, extractor = load_checkpoint(folder)
    model = model.float().eval()
    numpy_extractor = NumpyExtractor(json.loads((folder / EXTRACTOR_CONFIG).read_text(encoding="utf-8")))
    target = folder / ONNX_MODEL
    shutil.rmtree(target.parent, ignore_errors=True)
    target.parent.mkdir()
    # Two clips of quiet noise: of the training's length, and half a second longer or shorter.
    seconds, draw = getattr(model.config, "clip_seconds", None) or 2.0, np.random.default_rng(0)
    both, rate = (seconds, seconds + (0.53 if seconds < 1.1 else -0.53)), extractor.to_dict()["sampling_rate"]
    clips = [draw.normal(0, 0.1, round(each * rate)).astype(np.float32) for each in both]
    lengths = family_of(model.config.model_type).lengths
    longest = lengths.longest_seconds(extractor)
    try:
        ((_, batch),) = equal_shapes([extract(extractor, clips[0])] * 2)
        write_graph(model, batch, target, fixed=longest is not None)
        check(model, extractor, numpy_extractor, clips, target)
    except BaseException:
        shutil.rmtree(target.parent)
        raise
    facts = {  # what serving cannot read in the configs, and which weights were exported
        "weights": weights_fingerprint(folder),
        "longest_seconds": longest,
        "shortest_samples": lengths.shortest_samples(model.config),
        "torch": torch.__version__,
    }
    write_text(folder / ONNX_EXPORT, json.dumps(facts, indent=2) + "\n")
    if int8:
        quantize(target, folder / ONNX_INT8)
    return target.parent


def write_graph(model: PreTrainedModel, batch: Features, target: Path, fixed: bool) -> None:
    """Exports the model, with a dynamic batch and, unless `fixed`, a dynamic time axis. Raises UserError."""
    inputs, dynamic = as_tensors(batch), torch.export.Dim.DYNAMIC
    spectrogram = family_of(model.config.model_type).spectrogram
    axis = 1 + (spectrogram.time_axis if spectrogram else 0)
    shapes = {name: {0: dynamic} | ({} if fixed else {axis if values.ndim > 2 else 1: dynamic})
              for name, values in inputs.items()}  # fmt: skip
    try:
        import onnx

        with _silence():
            program: Any = torch.onnx.export(
                LogitsAndEmbedding(model).eval(), kwargs=inputs, dynamo=True, dynamic_shapes={"inputs": shapes},
                input_names=list(inputs), output_names=["logits", "pooled"], opset_version=20,
            )  # fmt: skip
    except ImportError as error:
        fix = "pip install 'urbansound-hf[export]'"
        raise UserError(f"the export needs packages that are not installed ({error})", "", fix) from error
    except (RuntimeError, ValueError, TypeError, AssertionError) as error:
        cause: BaseException = error
        while cause.__cause__:  # the exporter wraps it in its own
            cause = cause.__cause__
        reason = (str(cause).strip() or type(cause).__name__).splitlines()[0]
        what = f"{model.config.model_type} models cannot be exported: {reason}"
        raise UserError(what, str(target), "serve it with PyTorch (--backend torch)") from error
    external = sum(each.nbytes for each in model.parameters()) > EMBEDDED_BYTES
    options: dict[str, Any] = {"save_as_external_data": True, "location": f"{target.name}_data"} if external else {}
    graph = program.model.graph
    for each in (*graph, *graph.initializers.values(), *(value for node in graph for value in node.outputs)):
        each.metadata_props.clear()  # stack traces, which name the folders of this machine
        if each.name == "embedding":  # what PyTorch calls a look-up in a table
            each.name = "embedding_of_ids"
    graph.outputs[1].name = "embedding"
    onnx.save(program.model_proto, str(target), **options)


def check(
    model: PreTrainedModel, extractor: Any, numpy_extractor: NumpyExtractor, clips: Sequence[np.ndarray], target: Path
) -> None:
    """Raises UserError if the scores of clips, from waveform to softmax, differ from PyTorch's beyond `TOLERANCE`."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(target), providers=["CPUExecutionProvider"])
    several = model.config.problem_type == "multi_label_classification"
    activation = torch.sigmoid if several else partial(torch.softmax, dim=-1)
    worst = 0.0
    for clip in clips:
        ((_, alone),) = equal_shapes([extract(extractor, clip)])
        with torch.inference_mode():
            expected = activation(model(**as_tensors(alone)).logits).numpy()
        batch = {name: np.repeat(values, 3, axis=0) for name, values in numpy_extractor(clip).items()}
        batch = {each.name: batch[each.name] for each in session.get_inputs()}
        logits = session.run(["logits"], batch)[0]
        worst = max(worst, float(np.abs(activation(torch.from_numpy(logits)).numpy() - expected).max()))
    if not worst <= TOLERANCE:
        what = f"the scores of the export differ from PyTorch's by {worst:.2g}, at most {TOLERANCE:g} is right"
        raise UserError(what, str(target), "serve it with PyTorch (--backend torch)")


def quantize(source: Path, target: Path, least_share: float = LEAST_SHARE) -> None:
    """Writes the model with the matrices of its linear layers in 8 bits, to be scaled for each input.

    A network of convolutions would stay as large and lose accuracy (YAMNet: 19 points): for it nothing is written.
    """
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    model = onnx.load(source)
    sizes = {each.name: math.prod(each.dims) for each in model.graph.initializer}
    in_matrices = {name for node in model.graph.node if node.op_type == "MatMul" for name in node.input}
    share = sum(size for name, size in sizes.items() if name in in_matrices) / sum(sizes.values())
    if share < least_share:
        progress.say(f"no 8-bit model: only {share:.0%} of the weights are matrices, so it would be hardly smaller")
        return
    with _silence():
        quantize_dynamic(
            model, target, op_types_to_quantize=["MatMul"], per_channel=True, weight_type=QuantType.QInt8,
            extra_options={"MatMulConstBOnly": True},
        )  # fmt: skip


def main(argv: Sequence[str]) -> int:
    """The command `urbansound-hf export`."""
    parser = CommandParser("urbansound-hf export", description="Write a checkpoint as ONNX, beside it.")
    parser.add_argument("run", metavar="RUN", help="the folder of a run")
    parser.add_argument("--int8", action="store_true", help="write a model with matrices in 8 bits as well")
    args = parser.parse_args(argv)
    with writing(args.run):
        target = export_onnx(args.run, args.int8)
    for path in sorted(target.glob("*.onnx*")):
        print(f"{path}  {path.stat().st_size / 2**20:,.1f} MiB")
    return 0


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Without the exporter's reports, warnings and hints."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
