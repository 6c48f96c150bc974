"""Tokenisers learnt from a task's own train split. Torch-free."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from tierwise._errors import InputError, UnavailableError
from tierwise.tasks._spec import Bert, Roberta
from tierwise.tasks._task import Item

__all__ = ["train_tokenizer"]


def train_tokenizer(subject: Bert | Roberta, items: Sequence[Item]) -> bytes:
    """The tokeniser of a text subject, learnt from ``items``.

    BERT: lower case, word pieces, ``[CLS] a [SEP] b [SEP]``. RoBERTa: byte-level pairs, ``<s> a </s></s> b </s>``.
    Equal items give equal bytes. A small corpus may give fewer tokens than ``subject.vocabulary``.

    Args:
        subject: Which kind, and the largest vocabulary.
        items: Texts or pairs of texts.

    Returns:
        JSON of the ``tokenizers`` library, UTF-8.

    Raises:
        UnavailableError: The ``tokenizers`` library is not installed.
        InputError: An item is not text.
    """
    try:
        import tokenizers
    except ImportError as error:
        raise UnavailableError(
            "a text task needs the tokenizers library", fix="Install it with: pip install 'tierwise[train]'"
        ) from error
    # Sorted, because ties between equally frequent pieces are broken by the order in which they are met.
    texts = sorted(_texts(items))
    tokenizer = (
        _word_pieces(tokenizers, subject, texts) if isinstance(subject, Bert) else _pairs(tokenizers, subject, texts)
    )
    content: str = tokenizer.to_str(pretty=False)
    return content.encode()


def _texts(items: Sequence[Item]) -> Iterator[str]:
    for item in items:
        parts = item if isinstance(item, tuple) else (item,)
        for part in parts:
            if not isinstance(part, str):
                raise InputError("each item of a text task must be a text or a pair of texts", got=type(part).__name__)
            yield part


def _word_pieces(tokenizers: Any, subject: Bert, texts: list[str]) -> Any:
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = tokenizers.normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = tokenizers.decoders.WordPiece()
    # The trainer numbers inner letters in the order of a randomly seeded hash map, and ids break ties. Announced as
    # special tokens, they get fixed numbers; the tokenizer is then made anew with the true special tokens alone.
    letters = sorted({letter for text in texts for letter in tokenizer.normalizer.normalize_str(text)} - set(" "))
    trainer = tokenizers.trainers.WordPieceTrainer(
        vocab_size=subject.vocabulary,
        special_tokens=special + [f"##{letter}" for letter in letters],
        initial_alphabet=letters,
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    learnt = tokenizers.Tokenizer(tokenizers.models.WordPiece(tokenizer.get_vocab(), unk_token="[UNK]"))
    learnt.normalizer, learnt.pre_tokenizer = tokenizer.normalizer, tokenizer.pre_tokenizer
    learnt.decoder = tokenizer.decoder
    learnt.add_special_tokens(special)
    learnt.post_processor = tokenizers.processors.TemplateProcessing(
        single="[CLS]:0 $A:0 [SEP]:0",
        pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1",
        special_tokens=[(token, special.index(token)) for token in ("[CLS]", "[SEP]")],
    )
    return learnt


def _pairs(tokenizers: Any, subject: Roberta, texts: list[str]) -> Any:
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=subject.vocabulary,
        special_tokens=special,
        # Every byte, so that no text is unknown.
        initial_alphabet=sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single="<s>:0 $A:0 </s>:0",
        pair="<s>:0 $A:0 </s>:0 </s>:0 $B:0 </s>:0",
        special_tokens=[(token, special.index(token)) for token in ("<s>", "</s>")],
    )
    return tokenizer
