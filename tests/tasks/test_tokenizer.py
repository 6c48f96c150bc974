from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from tierwise._errors import InputError
from tierwise.artifact import TextInput
from tierwise.tasks import Bert, BuiltinTask, Roberta, load_task
from tierwise.tasks._tokenizer import train_tokenizer

TEXTS = [f"the {word} film is {n} times as good ." for n, word in enumerate(["béart", "new", "old", "Long"] * 20)]


@pytest.mark.parametrize("subject", [Bert(vocabulary=300), Roberta(vocabulary=400)])
def test_round_trip_and_limits(subject: Bert | Roberta) -> None:
    tokenizer = Tokenizer.from_str(train_tokenizer(subject, TEXTS).decode())
    assert tokenizer.get_vocab_size() <= subject.vocabulary
    for text in TEXTS[:4]:
        lower = text.lower().replace("é", "e") if isinstance(subject, Bert) else text
        assert tokenizer.decode(tokenizer.encode(text).ids).strip() == lower.replace(
            " .", "." * isinstance(subject, Bert) or " ."
        )


def test_a_pair_has_two_segments() -> None:
    tokenizer = Tokenizer.from_str(train_tokenizer(Bert(vocabulary=300), TEXTS).decode())
    encoded = tokenizer.encode("the film", "the film")
    assert [encoded.tokens[0], encoded.tokens[-1]] == ["[CLS]", "[SEP]"]
    assert sorted(set(encoded.type_ids)) == [0, 1]
    assert [tokenizer.token_to_id(token) for token in ("[PAD]", "[UNK]", "[CLS]", "[SEP]")] == [0, 1, 2, 3]


def test_bytes_of_any_text_are_known_to_roberta() -> None:
    tokenizer = Tokenizer.from_str(train_tokenizer(Roberta(vocabulary=300), TEXTS).decode())
    assert tokenizer.decode(tokenizer.encode("日本 \x85 é").ids).strip() == "日本 \x85 é"
    assert [tokenizer.token_to_id(token) for token in ("<s>", "<pad>", "</s>", "<unk>")] == [0, 1, 2, 3]


@pytest.mark.parametrize("subject", [Bert(vocabulary=300), Roberta(vocabulary=400)])
def test_equal_texts_give_equal_bytes_in_any_process(subject: Bert | Roberta) -> None:
    here = train_tokenizer(subject, TEXTS)
    code = (
        "import sys; from tierwise.tasks import Bert, Roberta; from tierwise.tasks._tokenizer import train_tokenizer;"
        f"sys.stdout.buffer.write(train_tokenizer({subject!r}, {TEXTS[::-1]!r}))"
    )
    there = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout
    assert here == there


def test_only_text_is_tokenised() -> None:
    with pytest.raises(InputError, match="a text or a pair of texts, but got bytes"):
        train_tokenizer(Bert(), [b"film"])


@pytest.mark.data
def test_pairs_of_a_built_in_task(data_root: Path, tmp_path: Path) -> None:
    task = load_task(BuiltinTask(name="mrpc"), tmp_path)
    assert isinstance(task.encoding, TextInput)
    example = task.example()
    assert list(example) == ["input_ids", "attention_mask", "token_type_ids"]
    assert all(tuple(tensor.shape) == (2, 128) for tensor in example.values())
    assert example["token_type_ids"].max() == 1
    again = load_task(BuiltinTask(name="mrpc"), tmp_path / "elsewhere")
    assert again.files == task.files
    assert again.fingerprint == task.fingerprint

    roberta = load_task(BuiltinTask(name="sst2", subject=Roberta()), tmp_path)
    assert list(roberta.example()) == ["input_ids", "attention_mask"]
