"""ECAPA-TDNN: SpeechBrain's own numbers, under the names of SpeechBrain's own folders; trains as any family does."""

from __future__ import annotations

import json
import pickle
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoFeatureExtractor, AutoModelForAudioClassification

from tests.conftest import ROOT
from urbansound_hf.data.urbansound8k import CLASSES
from urbansound_hf.errors import UserError, exit_code
from urbansound_hf.features.extract import as_tensors, extract
from urbansound_hf.models import adapt
from urbansound_hf.models.catalogue import main
from urbansound_hf.models.ecapa_tdnn import convert, modeling_ecapa_tdnn
from urbansound_hf.models.ecapa_tdnn.modeling_ecapa_tdnn import (
    EcapaTdnnConfig,
    EcapaTdnnFeatureExtractor,
    EcapaTdnnForAudioClassification,
)
from urbansound_hf.models.linear_probe import LinearProbe, embed
from urbansound_hf.models.loading import load_feature_extractor, load_model

if find_spec("speechbrain") is None:
    pytest.skip("needs pip install 'urbansound-hf[speechbrain]'", allow_module_level=True)

TINY = {"channels": [16, 16, 16, 16, 32], "attention_channels": 8, "res2net_scale": 4, "lin_neurons": 12}
REVERSED = CLASSES[::-1]
NAMES = {"id2label": dict(enumerate(CLASSES)), "label2id": {label: i for i, label in enumerate(CLASSES)}}
HYPERPARAMETERS = """\
pretrained_path: {folder}
__set_seed: !apply:torch.manual_seed [1988]
n_mels: 24
emb_dim: 12
compute_features: !new:speechbrain.lobes.features.Fbank
    n_mels: !ref <n_mels>
    left_frames: 0
    right_frames: 0
    deltas: False
mean_var_norm: !new:speechbrain.processing.features.InputNormalization
    norm_type: sentence
    std_norm: False
embedding_model: !new:speechbrain.lobes.models.ECAPA_TDNN.ECAPA_TDNN
    input_size: !ref <n_mels>
    channels: [16, 16, 16, 16, 32]
    dilations: [1, 2, 3, 4, 1]
    attention_channels: 8
    res2net_scale: 4
    lin_neurons: !ref <emb_dim>
classifier: !new:speechbrain.lobes.models.ECAPA_TDNN.Classifier
    input_size: !ref <emb_dim>
    out_neurons: 10
label_encoder: !new:speechbrain.dataio.encoder.CategoricalEncoder
modules:
    compute_features: !ref <compute_features>
    mean_var_norm: !ref <mean_var_norm>
    embedding_model: !ref <embedding_model>
    classifier: !ref <classifier>
pretrainer: !new:speechbrain.utils.parameter_transfer.Pretrainer
    loadables:
        embedding_model: !ref <embedding_model>
        classifier: !ref <classifier>
        label_encoder: !ref <label_encoder>
    paths:
        embedding_model: !ref <pretrained_path>/embedding_model.ckpt
        classifier: !ref <pretrained_path>/classifier.ckpt
        label_encoder: !ref <pretrained_path>/label_encoder.txt
"""
"""The layout of the checkpoints that SpeechBrain publishes, with a small network."""


def sound(seconds: float, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-0.5, 0.5, round(seconds * 16_000)).astype(np.float32)


def tiny(**settings) -> EcapaTdnnForAudioClassification:
    """A small network whose batch norms have running statistics of their own."""
    torch.manual_seed(0)
    model = EcapaTdnnForAudioClassification(EcapaTdnnConfig(**{**TINY, **NAMES, **settings}))
    with torch.no_grad():
        model.train()(torch.randn(8, 50, model.config.input_size))
    return model.eval()


def frames(*waveforms: np.ndarray, **settings) -> torch.Tensor:
    return EcapaTdnnFeatureExtractor(**settings)(list(waveforms), return_tensors="pt")["input_features"]


@pytest.fixture
def speechbrain_folder(tmp_path) -> Path:
    """What SpeechBrain publishes, random weights, its classes in the reverse of this project's order."""
    from speechbrain.dataio.encoder import CategoricalEncoder

    folder, model = tmp_path / "urbansound8k_ecapa", tiny(input_size=24)
    folder.mkdir()
    (folder / "hyperparams.yaml").write_text(HYPERPARAMETERS.format(folder=folder), encoding="utf-8")
    torch.save(model.ecapa.network.state_dict(), folder / "embedding_model.ckpt")
    torch.save(model.classifier.cosine.state_dict(), folder / "classifier.ckpt")
    encoder = CategoricalEncoder()
    encoder.update_from_iterable(REVERSED)
    encoder.save(folder / "label_encoder.txt")
    return folder


@pytest.fixture
def converted(speechbrain_folder, tmp_path) -> Path:
    assert main(["ecapa_tdnn", "convert", str(speechbrain_folder), str(tmp_path / "converted")]) == 0
    return tmp_path / "converted"


# SpeechBrain's numbers


@pytest.mark.parametrize("seconds", [0.05, 1.0, 4.0])
@pytest.mark.parametrize("std_norm", [False, True])
def test_features_are_speechbrains(seconds, std_norm):
    from speechbrain.lobes.features import Fbank
    from speechbrain.processing.features import InputNormalization

    clips = np.stack([sound(seconds, 1), sound(seconds, 2) * 1e-3])
    norm = InputNormalization(norm_type="sentence", std_norm=std_norm)
    wanted = norm(Fbank(n_mels=80, left_frames=0, right_frames=0)(torch.from_numpy(clips)), torch.ones(2))
    found = frames(*clips, std_norm=std_norm)
    assert found.shape == (2, 1 + round(seconds * 100), 80) and found.dtype == torch.float32
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=0)
    torch.testing.assert_close(frames(clips[1], std_norm=std_norm), wanted[1:], atol=1e-5, rtol=0)  # without neighbour


@pytest.mark.parametrize("seconds", [0.05, 0.5, 4.0])
def test_a_converted_folder_scores_as_speechbrains_own_classifier_does(
    converted, speechbrain_folder, tmp_path, seconds
):
    from speechbrain.inference.classifiers import EncoderClassifier

    original = EncoderClassifier.from_hparams(str(speechbrain_folder), savedir=str(tmp_path / "cache"))
    original.hparams.label_encoder.ignore_len()
    cosines, _, _, best = original.classify_batch(torch.from_numpy(sound(seconds))[None])
    model = AutoModelForAudioClassification.from_pretrained(converted)
    inputs = AutoFeatureExtractor.from_pretrained(converted)(sound(seconds), sampling_rate=16_000, return_tensors="pt")
    with torch.inference_mode():
        logits = model(**inputs).logits[0]
    torch.testing.assert_close(logits / model.config.scale, cosines[0], atol=1e-5, rtol=0)
    assert model.config.id2label == dict(enumerate(REVERSED)) and model.config.clip_seconds == 4.0
    assert model.config.id2label[int(logits.argmax())] == best[0]


def test_the_default_is_the_network_of_speechbrains_recipe():
    with torch.device("meta"):
        model = EcapaTdnnForAudioClassification(EcapaTdnnConfig(**NAMES))
    assert adapt.count_parameters(model.ecapa)["parameters"] == 20_767_552
    assert model.num_parameters() == 20_767_552 + 10 * 192


def test_weights_start_as_speechbrain_draws_them():
    model = tiny()
    for convolution in (module for module in model.modules() if isinstance(module, torch.nn.Conv1d)):
        limit = convolution.weight[0].numel() ** -0.5
        assert 0.7 * limit < convolution.weight.abs().max() <= limit
    limit = (6 / (12 + 10)) ** 0.5
    assert 0.8 * limit < model.classifier.cosine.weight.abs().max() <= limit


# Names, not positions


def test_fine_tuning_keeps_each_class_under_its_name(converted):
    extractor = load_feature_extractor(converted)
    ours = load_model(converted, CLASSES).eval()
    stored = AutoModelForAudioClassification.from_pretrained(converted)
    assert ours.config.id2label == dict(enumerate(CLASSES))
    inputs = as_tensors({name: each[None] for name, each in extract(extractor, sound(1.0)).items()})
    with torch.inference_mode():
        rows, wanted = ours(**inputs).logits[0], stored(**inputs).logits[0]
    for label in CLASSES:
        number = ours.config.label2id[label]
        torch.testing.assert_close(rows[number], wanted[stored.config.label2id[label]])
        torch.testing.assert_close(ours.classifier.cosine.weight[number], stored.classifier.cosine.weight[9 - number])


@pytest.mark.parametrize(
    ("file", "before", "after", "rule"),
    [
        ("label_encoder.txt", "=> 9", "=> 10", "each class needs a name of its own and a number from 0 on"),
        ("label_encoder.txt", "'siren'", "'gun_shot'", "each class needs a name of its own and a number from 0 on"),
        ("label_encoder.txt", "'siren' => 1\n", "siren\n", "it is no label encoder"),
        ("hyperparams.yaml", "out_neurons: 10", "out_neurons: 9", "the classes must agree; found 9 and 10"),
        ("hyperparams.yaml", "input_size: !ref <n_mels>", "input_size: 80", "mel bands must agree; found 24 and 80"),
        ("hyperparams.yaml", "norm_type: sentence", "norm_type: global", "found global and sentence"),
        ("hyperparams.yaml", "deltas: False", "deltas: True", "compute_features: deltas must be False; found True"),
        ("hyperparams.yaml", "    deltas", "    filter_shape: x\n    deltas", "has the setting filter_shape: x"),
        ("hyperparams.yaml", "n_mels: 24", "n_mels: 24\namp_to_db: True", "amp_to_db must be False"),
        ("hyperparams.yaml", "!ref <emb_dim>", "!ref <emb_dim> + 1", "'!ref <emb_dim> + 1' cannot be followed"),
        ("hyperparams.yaml", "models.ECAPA_TDNN.ECAPA_TDNN", "models.Xvector.Xvector", "embedding_model must be a sp"),
        ("hyperparams.yaml", "[16, 16, 16, 16, 32]", "[16, 16, 16, 32]", "needs lists of equal length"),
        ("hyperparams.yaml", "[16, 16, 16, 16, 32]", "[16, 16, 16, 16, 48]", "weights are not those of the network"),
        ("hyperparams.yaml", "emb_dim: 12", "emb_dim: [12", "it cannot be read"),
    ],
)  # fmt: skip
def test_a_folder_that_does_not_fit_is_explained(speechbrain_folder, tmp_path, capsys, file, before, after, rule):
    text = (speechbrain_folder / file).read_text(encoding="utf-8")
    assert before in text
    (speechbrain_folder / file).write_text(text.replace(before, after), encoding="utf-8")
    assert exit_code(lambda: main(["ecapa_tdnn", "convert", str(speechbrain_folder), str(tmp_path / "out")])) == 2
    message = capsys.readouterr().err
    assert rule in message and "fix:" in message and not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["hyperparams.yaml", "embedding_model.ckpt", "classifier.ckpt", "label_encoder.txt"])
def test_a_missing_file_is_named(speechbrain_folder, tmp_path, name):
    (speechbrain_folder / name).unlink()
    with pytest.raises(UserError, match=f"a SpeechBrain folder has a {name}; there is none"):
        convert.convert(speechbrain_folder, tmp_path / "out")


def test_nothing_in_the_folder_is_executed(speechbrain_folder, tmp_path):
    class Touch:
        def __reduce__(self):
            return Path.touch, (tmp_path / "executed",)

    text = (speechbrain_folder / "hyperparams.yaml").read_text(encoding="utf-8")
    touch = f"touched: !apply:pathlib.Path.touch [!new:pathlib.Path [{tmp_path / 'executed'}]]\n"
    (speechbrain_folder / "hyperparams.yaml").write_text(touch + text, encoding="utf-8")
    convert.convert(speechbrain_folder, tmp_path / "out")
    torch.save({"weight": Touch()}, speechbrain_folder / "classifier.ckpt")
    with pytest.raises(UserError, match="it holds no plain weights"):
        convert.convert(speechbrain_folder, tmp_path / "out")
    assert not (tmp_path / "executed").exists()


def test_a_folder_that_is_not_converted_yet_is_told_how(speechbrain_folder):
    with pytest.raises(UserError) as caught:
        load_feature_extractor(speechbrain_folder)
    assert f"ecapa_tdnn convert {speechbrain_folder} OUT_DIR" in caught.value.fix


# Clips


def test_what_can_be_heard_and_what_cannot():
    model, extractor = tiny(), EcapaTdnnFeatureExtractor()
    for waveform in (sound(0.04), np.zeros(16_000, np.float32), sound(1.0).tolist(), sound(1.0).astype(np.float64)):
        found = model(**extractor(waveform, sampling_rate=16_000, return_tensors="pt")).logits
        assert found.shape == (1, 10) and torch.isfinite(found).all()
    with pytest.raises(ValueError, match="needs 5 frames, 640 samples; found 639"):
        extractor(sound(0.04)[:-1])
    with pytest.raises(ValueError, match="must be 16000 Hz; found 44100"):
        extractor(sound(1.0), sampling_rate=44_100)
    with pytest.raises(ValueError, match=r"mono and of one length.*\[\(8000,\), \(16000,\)\]"):
        extractor([sound(1.0), sound(0.5)])
    with pytest.raises(ValueError, match="mono and of one length"):
        extractor(np.zeros((1, 16_000, 2), np.float32))


def test_the_shortest_clip_follows_from_the_dilations():
    model = tiny(dilations=[1, 2, 3, 9, 1])
    assert model.config.shortest_frames == 10
    model(torch.randn(1, 10, 80))
    with pytest.raises(RuntimeError, match="Padding size"):
        model(torch.randn(1, 9, 80))
    with pytest.raises(ValueError, match="needs 10 frames, 1440 samples"):
        frames(sound(0.089), shortest_frames=10)


@pytest.mark.parametrize("setting", [{"dilations": [1, 2]}, {"channels": [16, 16, 24, 16, 32]}, {"res2net_scale": 5}])
def test_layers_that_do_not_fit_are_refused(setting):
    with pytest.raises(ValueError, match="ECAPA-TDNN needs lists of equal length, and one width"):
        EcapaTdnnConfig(**{**TINY, **setting})


# Training


def test_the_loss_is_speechbrains_in_training_and_cross_entropy_otherwise():
    from speechbrain.nnet.losses import AdditiveAngularMargin, LogSoftmaxWrapper

    model, inputs, labels = tiny(), torch.randn(6, 50, 80), torch.arange(6)
    with torch.no_grad():
        logits = model(inputs).logits
        torch.testing.assert_close(model(inputs, labels=labels).loss, torch.nn.functional.cross_entropy(logits, labels))
        output = model.train()(inputs, labels=labels)
        cosines = output.logits[:, None] / 30
        wanted = LogSoftmaxWrapper(AdditiveAngularMargin(margin=0.2, scale=30))(cosines, labels[:, None])
        torch.testing.assert_close(output.loss, wanted)
        soft = model.classifier.loss(output.logits, torch.nn.functional.one_hot(labels, 10).float())
        torch.testing.assert_close(soft, wanted)


def test_learns_and_bears_a_last_batch_of_one():
    model = tiny(num_labels=2).train()
    inputs, labels = torch.randn(8, 50, 80) + torch.arange(8)[:, None, None] % 2, torch.arange(8) % 2
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for batch in [slice(0, 8)] * 20 + [slice(0, 1), slice(0, 8)]:
        loss = model(inputs[batch], labels=labels[batch]).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[19] < 0.5 * losses[0]
    assert all(torch.isfinite(values).all() for values in model.state_dict().values())
    assert model.ecapa.network.asp_bn.training, "the batch after one of one follows its own statistics again"


def test_a_probe_on_embeddings_gives_the_models_own_logits():
    model, inputs = tiny(), {"input_features": torch.randn(3, 50, 80)}
    adapt.freeze(model, "backbone")
    assert [name for name, p in model.named_parameters() if p.requires_grad] == ["classifier.cosine.weight"]
    before = {name: values.clone() for name, values in model.ecapa.state_dict().items()}
    model.train()(**inputs, labels=torch.arange(3)).loss.backward()
    assert all(values.equal(before[name]) for name, values in model.ecapa.state_dict().items())
    embedding = embed(model.eval(), inputs)
    assert embedding.shape == (3, 12) and adapt.backbone(model) is model.ecapa
    assert adapt.layers(model) is model.ecapa.network.blocks
    torch.testing.assert_close(LinearProbe(model)(embedding).logits, model(**inputs).logits)


# The checkpoint


def test_opens_elsewhere_without_this_package(converted, tmp_path, elsewhere_python):
    np.save(tmp_path / "waveform.npy", sound(2.5))
    program = (
        "import json; import numpy, torch; from transformers import pipeline;"
        "classify = pipeline('audio-classification', model='converted', trust_remote_code=True, device='cpu');"
        "clip = lambda: {'array': numpy.load('waveform.npy'), 'sampling_rate': 16000};"
        "found = classify([clip(), clip()], batch_size=2, top_k=None);"
        "print(json.dumps([found, torch.backends.cuda.matmul.allow_tf32]))"
    )
    done = elsewhere_python.run(program, tmp_path)
    assert done.returncode == 0, done.stderr
    answers, tf32 = json.loads(done.stdout)
    assert not tf32, "SpeechBrain would switch it on for the whole process"
    model = AutoModelForAudioClassification.from_pretrained(converted)
    with torch.inference_mode():
        wanted = model(frames(sound(2.5), n_mels=24)).logits.softmax(-1)[0].tolist()
    for answer in answers:
        assert {each["label"]: each["score"] for each in answer} == pytest.approx(
            dict(zip(REVERSED, wanted, strict=True)), abs=1e-5
        )


def test_an_extractor_survives_saving_and_stays_small(tmp_path):
    extractor = EcapaTdnnFeatureExtractor(n_mels=24, std_norm=True, shortest_frames=7)
    extractor(sound(1.0))
    extractor.save_pretrained(tmp_path)
    again = AutoFeatureExtractor.from_pretrained(tmp_path)
    assert again.to_dict() == extractor.to_dict() and len(pickle.dumps(extractor)) < 1_000
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(again))(sound(1.0)).input_features, frames(
        sound(1.0), n_mels=24, std_norm=True, shortest_frames=7
    ))  # fmt: skip


def test_without_speechbrain_the_way_to_install_it_is_told(monkeypatch):
    modeling_ecapa_tdnn._front_end.cache_clear()
    for module in ("lobes.features", "lobes.models.ECAPA_TDNN"):
        monkeypatch.setitem(sys.modules, f"speechbrain.{module}", None)
    for load in (
        lambda: load_feature_extractor("ecapa-tdnn"),
        lambda: load_model("ecapa-tdnn", CLASSES),
    ):
        with pytest.raises(
            UserError, match=r"ecapa-tdnn needs SpeechBrain .* pip install 'urbansound-hf\[speechbrain\]'"
        ):
            load()


def test_this_package_imports_without_speechbrain(tmp_path, elsewhere_python):
    program = (
        f"import sys; del sys.modules['urbansound_hf']; sys.path.insert(0, {str(ROOT)!r});"
        "sys.modules['speechbrain'] = None; from urbansound_hf.models import registry; registry.register()"
    )
    done = elsewhere_python.run(program, tmp_path)
    assert done.returncode == 0, done.stderr
