"""Text subjects that start from trained weights: a folder in Hugging Face layout, or a package that carries one."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from transformers import BertConfig, BertModel, RobertaConfig, RobertaModel

from tierwise._errors import SpecError, UnavailableError
from tierwise.artifact import TextInput
from tierwise.measure import Silent
from tierwise.tasks import Bert, BuiltinTask, Roberta, Split, Task, Training, build_student, load_task, started
from tierwise.tasks._encoder import build_encoder
from tierwise.tasks._tokenizer import train_tokenizer, word_piece_tokenizer

TEXTS = [f"the {word} film is {n} times as good ." for n, word in enumerate(["bleak", "new", "old", "long"] * 20)]
VOCABULARY = 300

Folder = Callable[..., Path]


@pytest.fixture
def saved(tmp_path: Path) -> Folder:
    """Saves a small encoder with its tokens, with some entries of the configuration changed."""

    def save(family: str = "bert", name: str = "start", **changed: Any) -> Path:
        folder = tmp_path / name
        shape = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 96}
        torch.manual_seed(0)
        if family == "bert":
            net: Any = BertModel(BertConfig(**shape, vocab_size=VOCABULARY))
            subject: Bert | Roberta = Bert(vocabulary=VOCABULARY)
        else:
            net = RobertaModel(
                RobertaConfig(
                    **shape, vocab_size=400, max_position_embeddings=514, type_vocab_size=1, layer_norm_eps=1e-5
                )
            )
            subject = Roberta(vocabulary=400)
        net.save_pretrained(folder)
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, **changed}))
        (folder / "tokenizer.json").write_bytes(train_tokenizer(subject, TEXTS))
        return folder

    return save


def tokens(length: int = 8) -> torch.Tensor:
    return torch.tensor(np.random.default_rng(0).integers(5, VOCABULARY, (2, length)))


@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_shape_and_weights_are_those_of_the_folder(saved: Folder, family: str) -> None:
    folder = saved(family)
    kind, library = {"bert": (Bert, BertModel), "roberta": (Roberta, RobertaModel)}[family]
    found = started(kind(start=str(folder), max_length=16))
    assert (found.shape, found.head_width, found.heads) == ((2, 24), 8, 3)
    assert found.start_sha256 == hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    assert started(found) == found
    ours, theirs = build_encoder(found).eval(), library.from_pretrained(folder).eval()
    with torch.no_grad():
        got, wanted = ours(input_ids=tokens()), theirs(input_ids=tokens())
    torch.testing.assert_close(got.pooler_output, wanted.pooler_output)


def test_prefixes_old_names_and_a_missing_pooler_are_understood(saved: Folder) -> None:
    folder = saved()
    weights = load_file(folder / "model.safetensors")
    renamed = {
        "bert." + name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): w
        for name, w in weights.items()
        if not name.startswith("pooler.")
    }
    save_file({**renamed, "cls.predictions.bias": torch.zeros(3)}, folder / "model.safetensors")
    state = build_encoder(Bert(start=str(folder))).state_dict()
    for name, tensor in weights.items():
        if not name.startswith("pooler."):
            torch.testing.assert_close(state[name], tensor)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"model_type": "gpt2"}, "a start must be of the type bert or roberta, but got 'gpt2'"),
        ({"hidden_act": "relu"}, "hidden_act of a bert start must be gelu, but got relu"),
        ({"intermediate_size": 48}, "intermediate_size of a bert start must be 96, but got 48"),
        ({"max_position_embeddings": 64}, "max_position_embeddings of a bert start must be 512, but got 64"),
        ({"num_hidden_layers": "x"}, "the configuration of a start must be readable"),
        ({"num_hidden_layers": 3}, r"the weights of a start must hold encoder\.layer\.2\.\S+ of shape .* but got none"),
        ({"hidden_size": 48, "intermediate_size": 192}, r"must hold \S+ of shape \[.*48.*\], but got shape \[.*24"),
    ],
)
def test_another_network_is_refused(saved: Folder, changed: dict[str, Any], said: str) -> None:
    with pytest.raises(SpecError, match=said):
        build_encoder(Bert(start=str(saved(**changed))))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"layers": 3}, "those of its folder, but got layers = 3. Leave layers out"),
        ({"size": "mini"}, "size = 'mini'"),
        ({"vocabulary": 500}, "vocabulary = 500"),
        ({"head_width": 12}, "head_width = 12"),
        ({"start_sha256": "0" * 64}, "the weights must have the sha256 0000"),
    ],
)
def test_a_subject_must_not_contradict_its_start(saved: Folder, given: dict[str, Any], said: str) -> None:
    with pytest.raises(SpecError, match=said):
        started(Bert(start=str(saved()), **given))


def test_missing_things_are_named(saved: Folder, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"config.json and model.safetensors, but got no such folder. .*python:NAME"):
        started(Bert(start=str(tmp_path / "nowhere")))
    (tmp_path / "empty").mkdir()
    with pytest.raises(SpecError, match=r"but got no config.json and no model.safetensors"):
        started(Bert(start=str(tmp_path / "empty")))
    with pytest.raises(UnavailableError, match=r"the package 'not_there' must be installed.*pip install not-there"):
        started(Bert(start="python:not_there"))
    with pytest.raises(SpecError, match=r"the start of a bert subject must be one, but got roberta"):
        started(Bert(start=str(saved("roberta"))))
    with pytest.raises(SpecError, match=r"start_sha256 belongs to a start"):
        started(Bert(start_sha256="0" * 64))
    folder = saved(name="many")
    (folder / "tokenizer.json").write_bytes(train_tokenizer(Bert(vocabulary=400), [*TEXTS, *map(str, range(5000))]))
    with pytest.raises(SpecError, match=r"numbered below its vocab_size, 300, but got 3\d\d"):
        load_task(BuiltinTask(name="mrpc", subject=Bert(start=str(folder))), tmp_path)
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(SpecError, match=r"a tokenizer must be JSON of the tokenizers library"):
        load_task(BuiltinTask(name="mrpc", subject=Bert(start=str(folder))), tmp_path)
    folder = saved(name="broken")
    (folder / "model.safetensors").write_bytes(b"no tensors")
    with pytest.raises(SpecError, match=r"the weights of a start must be a readable safetensors file"):
        build_encoder(Bert(start=str(folder)))
    (folder / "tokenizer.json").unlink()
    with pytest.raises(SpecError, match=r"its tokenizer as tokenizer.json or vocab.txt, but got config.json, model"):
        load_task(BuiltinTask(name="mrpc", subject=Bert(start=str(folder))), tmp_path)


def test_a_package_carries_a_start_and_is_not_imported(
    saved: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "made_up_weights"
    home.mkdir()
    (home / "__init__.py").write_text("raise RuntimeError('imported')\n")
    saved(name="made_up_weights/model")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    assert started(Bert(start="python:made_up_weights")).shape == (2, 24)
    saved(name="made_up_weights/other")
    with pytest.raises(SpecError, match=r"one folder with model.safetensors, but got model, other.*python:made_up_w"):
        started(Bert(start="python:made_up_weights"))
    assert started(Bert(start="python:made_up_weights/other")).shape == (2, 24)


def test_word_pieces_without_a_tokenizer_file(saved: Folder) -> None:
    folder = saved()
    whole = Tokenizer.from_file(str(folder / "tokenizer.json"))
    pieces = [token for token, _ in sorted(whole.get_vocab().items(), key=lambda entry: entry[1])]
    made = Tokenizer.from_str(word_piece_tokenizer([*pieces, ""], lowercase=True).decode())
    for text in (("The old FILM .", "a new one"), ("long", "bleak")):
        assert made.encode(*text).ids == whole.encode(*text).ids
        assert made.encode(*text).type_ids == whole.encode(*text).type_ids
    with pytest.raises(SpecError, match=r"must hold \[PAD\], .* but got no \[MASK\]"):
        word_piece_tokenizer([piece for piece in pieces if piece != "[MASK]"], lowercase=True)


def text_task(folder: Path, subject: Bert) -> Task:
    """Which of two words a text has."""
    items = ["the old film .", "the new film ."] * 20
    split = Split(items, np.array([0, 1] * 20))
    return Task(
        name="words",
        encoding=TextInput(max_length=16, type_ids="token_type_ids"),
        labels=("old", "new"),
        splits=dict.fromkeys(("train", "calibration", "validation", "test"), split),
        model=None,
        files={"tokenizer.json": (folder / "tokenizer.json").read_bytes()},
        subject=subject,
    )


def test_a_student_may_have_a_start_of_its_own_with_the_same_tokens(saved: Folder) -> None:
    folder, other = saved(), saved(name="other")
    task = text_task(folder, started(Bert(start=str(folder), max_length=16)))
    student = build_student(task, Bert(start=str(other), max_length=16))
    weights = load_file(other / "model.safetensors")
    torch.testing.assert_close(student.encoder.state_dict()["pooler.dense.weight"], weights["pooler.dense.weight"])
    (other / "tokenizer.json").write_bytes(train_tokenizer(Bert(vocabulary=VOCABULARY), [*TEXTS, "quite other words"]))
    with pytest.raises(SpecError, match=r"must have the tokens of the task"):
        build_student(task, Bert(start=str(other), max_length=16))


@pytest.mark.data
def test_a_task_starts_from_a_folder_wherever_it_lies(saved: Folder, tmp_path: Path, data_root: Path) -> None:
    def task(folder: Path, epochs: int = 0) -> Task:
        subject = Bert(start=str(folder), max_length=16)
        spec = BuiltinTask(
            name="mrpc", train_items=64, subject=subject, training=Training(epochs=epochs, batch=32, learning_rate=1e-3)
        )
        return load_task(spec, tmp_path / "cache", threads=1)

    folder = saved()
    first, moved = task(folder), task(saved(name="moved"))
    assert first.fingerprint == moved.fingerprint
    assert first.subject is not None
    assert msgspec.structs.asdict(first.subject)["vocabulary"] == VOCABULARY
    assert first.files["tokenizer.json"] == (folder / "tokenizer.json").read_bytes()
    assert first.model is not None
    start = load_file(folder / "model.safetensors")["encoder.layer.0.attention.self.query.weight"]
    name = "encoder.encoder.layer.0.attention.self.query.weight"
    torch.testing.assert_close(first.model(Silent()).state_dict()[name], start)
    learnt = task(folder, epochs=1)
    assert learnt.fingerprint != first.fingerprint
    assert learnt.model is not None
    assert not torch.equal(learnt.model(Silent()).state_dict()[name], start)
    weights = load_file(folder / "model.safetensors")
    save_file({key: tensor + 0.1 for key, tensor in weights.items()}, folder / "model.safetensors")
    assert task(folder).fingerprint != first.fingerprint
