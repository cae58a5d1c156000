"""A SpeechBrain checkpoint folder with an ECAPA-TDNN as a checkpoint folder that every Transformers command opens.

    urbansound-hf models ecapa_tdnn convert FOLDER OUT_DIR

FOLDER is what SpeechBrain's `EncoderClassifier.from_hparams` reads, such as a copy of `speechbrain/urbansound8k_ecapa`:
`hyperparams.yaml`, `embedding_model.ckpt`, `classifier.ckpt` and `label_encoder.txt`. Nothing in it is executed: the
hyperparameters are read as data, the weights without pickled objects. The label encoder names each row of the
classifier; its order is kept, and fine-tuning finds the rows again by those names.
"""

import pickle
import re
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import nn

from urbansound_hf.errors import UserError
from urbansound_hf.models.ecapa_tdnn.modeling_ecapa_tdnn import (
    EcapaTdnnConfig,
    EcapaTdnnFeatureExtractor,
    EcapaTdnnForAudioClassification,
)
from urbansound_hf.models.registry import label_names
from urbansound_hf.text import rendered

HYPERPARAMETERS = "hyperparams.yaml"
LABELS = ("label_encoder.txt", "label_encoder.ckpt")  # as published, and as SpeechBrain's cache calls it
CLIP_SECONDS = 4.0  # the window of infer.py over longer sounds
CARD = Path(__file__).with_name("card.md.jinja")


PARTS = yaml.safe_load(Path(__file__).with_name("parts.yaml").read_text(encoding="utf-8"))
"""The objects that hyperparams.yaml builds, by name: `kind`, `kept` and `fixed` settings."""


def convert(folder: Path, out_dir: Path) -> None:
    """Writes a SpeechBrain ECAPA-TDNN to `out_dir`; UserError if it is none, or SpeechBrain is not installed."""
    front, norm, network, head = read_hyperparameters(folder / HYPERPARAMETERS).values()
    labels = read_labels(next((path for name in LABELS if (path := folder / name).is_file()), folder / LABELS[0]))
    sizes = {
        "mel bands": (front["n_mels"], network["input_size"]),
        "widths of the embedding": (network["lin_neurons"], head["input_size"]),
        "classes": (head["out_neurons"], len(labels)),
        "normalisations": (norm["norm_type"], "sentence"),
    }
    for name, (found, expected) in sizes.items():
        if found != expected:
            what = f"the {name} must agree; found {found} and {expected}"
            raise UserError(what, str(folder), "give the files of one run, of SpeechBrain's ECAPA recipe")
    try:
        config = EcapaTdnnConfig(**network, **label_names(labels))
    except ValueError as error:
        raise UserError(str(error), str(folder / HYPERPARAMETERS), "give a folder that SpeechBrain can open") from error
    config.clip_seconds = CLIP_SECONDS
    model = EcapaTdnnForAudioClassification(config)
    load_weights(model.ecapa.network, folder / "embedding_model.ckpt")
    load_weights(model.classifier.cosine, folder / "classifier.ckpt")
    values = front["sample_rate"], front["n_mels"], norm["std_norm"], config.shortest_frames
    extractor = EcapaTdnnFeatureExtractor(*values)
    model.save_pretrained(out_dir)
    extractor.save_pretrained(out_dir)
    card = rendered(CARD, labels=labels, source=folder.resolve().name, sampling_rate=extractor.sampling_rate)
    (out_dir / "README.md").write_text(card, encoding="utf-8")


def read_hyperparameters(path: Path) -> dict[str, dict[str, Any]]:
    """The settings of each of `PARTS`, references resolved and defaults filled in."""
    _check_is_file(path)
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), _HyperparametersLoader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"it cannot be read: {error}", str(path), "give a SpeechBrain checkpoint folder") from error
    values = values if isinstance(values, dict) else {}
    # The two that only the training recipe reads.
    if values.get("amp_to_db", False) or not values.get("normalize", True):
        what = "amp_to_db must be False and normalize True: SpeechBrain's own inference knows neither"
        raise UserError(what, str(path), "train with them so")
    parts = {}
    for name, (kind, kept, fixed) in ((name, part.values()) for name, part in PARTS.items()):
        found = values.get(name)
        if not isinstance(found, dict) or found.get("!") != f"!new:{kind}":
            what = f"{name} must be a {kind}; found {found.get('!') if isinstance(found, dict) else found}"
            raise UserError(what, str(path), "only SpeechBrain's ECAPA-TDNN classifiers are converted")
        parts[name] = dict(kept)
        for key, value in ((key, value) for key, value in found.items() if key != "!"):
            if key in kept:
                parts[name][key] = _resolve(value, values, path)
            elif key not in fixed:
                known = ", ".join([*kept, *fixed])
                raise UserError(f"{name} has the setting {key}: {value}", str(path), f"these are understood: {known}")
            elif fixed[key] not in ("", _resolve(value, values, path)):
                raise UserError(f"{name}: {key} must be {fixed[key]}; found {value}", str(path), "train with it so")
    return parts


class _HyperparametersLoader(yaml.SafeLoader):
    """HyperPyYAML as data: what `!new:`, `!name:` and `!apply:` would build or run is only noted."""


def _tagged(loader: yaml.SafeLoader, tag: str, node: yaml.Node) -> Any:
    if isinstance(node, yaml.MappingNode):
        return {"!": tag, **loader.construct_mapping(node, deep=True)}
    return f"{tag} {node.value}"  # "!ref <n_mels>"


_HyperparametersLoader.add_multi_constructor("", _tagged)


def _resolve(value: Any, values: dict[str, Any], path: Path) -> Any:
    """Follows `!ref <name>`."""
    if isinstance(value, list):
        return [_resolve(each, values, path) for each in value]
    if not isinstance(value, str) or not value.startswith("!"):
        return value
    reference = re.fullmatch(r"!ref <(\w+)>", value)
    if not reference or reference[1] not in values:
        raise UserError(f"{value!r} cannot be followed", str(path), "write the value itself in its place")
    return _resolve(values[reference[1]], values, path)


def read_labels(path: Path) -> list[str]:
    """The class names of SpeechBrain's label encoder, in the order of the classifier's rows."""
    try:
        from speechbrain.dataio.encoder import CategoricalEncoder
    except ImportError as error:
        raise UserError("it needs SpeechBrain", str(path), "pip install 'urbansound-hf[speechbrain]'") from error
    _check_is_file(path)
    encoder = CategoricalEncoder()
    try:
        encoder.load(path)  # Python literals: nothing is executed
    except (ValueError, SyntaxError, KeyError) as error:
        fix = "lines such as 'dog_bark' => 0, as CategoricalEncoder.save writes them"
        raise UserError(f"it is no label encoder: {error}", str(path), fix) from error
    if sorted(encoder.ind2lab) != list(range(len(encoder.lab2ind))):
        what = f"each class needs a name of its own and a number from 0 on; found {encoder.ind2lab}"
        raise UserError(what, str(path), "give the label encoder of the run that trained the classifier")
    return [str(encoder.ind2lab[number]) for number in range(len(encoder.ind2lab))]


def load_weights(module: nn.Module, path: Path) -> None:
    """Fills a module of SpeechBrain's from its `.ckpt`; every weight must be there, and no other."""
    _check_is_file(path)
    try:
        module.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    except (pickle.UnpicklingError, EOFError) as error:
        raise UserError("it holds no plain weights", str(path), "give a file that torch.save wrote") from error
    except (RuntimeError, TypeError) as error:
        what = f"its weights are not those of the network: {' '.join(str(error).split())[:300]}"
        raise UserError(what, str(path), f"give the file that belongs to {HYPERPARAMETERS}") from error


def _check_is_file(path: Path) -> None:
    if not path.is_file():
        fix = "give a SpeechBrain checkpoint folder, such as a copy of speechbrain/urbansound8k_ecapa"
        raise UserError(f"a SpeechBrain folder has a {path.name}; there is none", str(path.parent), fix)
