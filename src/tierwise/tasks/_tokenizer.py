"""Tokenisers learnt from a task's own train split, or made of a list of word pieces. Torch-free."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from tierwise._errors import InputError, SpecError, UnavailableError
from tierwise.tasks._spec import Bert, Roberta
from tierwise.tasks._task import Item

__all__ = ["train_tokenizer", "vocabulary_of", "word_piece_tokenizer"]

_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


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
    tokenizers = _library()
    # Sorted, because ties between equally frequent pieces are broken by the order in which they are met.
    texts = sorted(_texts(items))
    tokenizer = (
        _word_pieces(tokenizers, subject, texts) if isinstance(subject, Bert) else _pairs(tokenizers, subject, texts)
    )
    return _to_json(tokenizer)


def word_piece_tokenizer(pieces: Sequence[str], *, lowercase: bool) -> bytes:
    """The BERT tokeniser of given word pieces.

    Args:
        pieces: In the order of their ids; an empty last line is none.
        lowercase: Whether it reads lower case only, without accents.

    Returns:
        As `train_tokenizer`.

    Raises:
        UnavailableError: The ``tokenizers`` library is not installed.
        SpecError: A special token is missing.
    """
    tokenizers = _library()
    vocabulary = {piece.rstrip("\r"): index for index, piece in enumerate(pieces) if piece.rstrip("\r")}
    missing = [token for token in _SPECIAL if token not in vocabulary]
    if missing:
        raise SpecError(f"the word pieces must hold {', '.join(_SPECIAL)}", got=f"no {missing[0]}", where="vocab.txt")
    normalizer = tokenizers.normalizers.BertNormalizer(lowercase=lowercase)
    return _to_json(_word_piece(tokenizers, vocabulary, normalizer))


def vocabulary_of(content: bytes, where: object) -> dict[str, int]:
    """Tokens of a tokeniser and their ids.

    Args:
        content: JSON of the ``tokenizers`` library.
        where: What an error names.

    Raises:
        UnavailableError: The ``tokenizers`` library is not installed.
        SpecError: It is no such JSON.
    """
    try:
        found: dict[str, int] = _library().Tokenizer.from_str(content.decode()).get_vocab()
    except UnavailableError:
        raise
    except Exception as error:  # the library raises bare Exception for malformed text
        raise SpecError(f"a tokenizer must be JSON of the tokenizers library ({error})", where=where) from error
    return found


def _library() -> Any:
    try:
        import tokenizers
    except ImportError as error:
        raise UnavailableError(
            "a text task needs the tokenizers library", fix="Install it with: pip install 'tierwise[train]'"
        ) from error
    return tokenizers


def _to_json(tokenizer: Any) -> bytes:
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
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = tokenizers.normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    # The trainer numbers inner letters in the order of a randomly seeded hash map, and ids break ties. Announced as
    # special tokens, they get fixed numbers; the tokenizer is then made anew with the true special tokens alone.
    letters = sorted({letter for text in texts for letter in tokenizer.normalizer.normalize_str(text)} - set(" "))
    trainer = tokenizers.trainers.WordPieceTrainer(
        vocab_size=subject.vocabulary,
        special_tokens=[*_SPECIAL, *(f"##{letter}" for letter in letters)],
        initial_alphabet=letters,
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return _word_piece(tokenizers, tokenizer.get_vocab(), tokenizer.normalizer)


def _word_piece(tokenizers: Any, vocabulary: dict[str, int], normalizer: Any) -> Any:
    """The tokeniser of a vocabulary, ``[CLS] a [SEP] b [SEP]``."""
    made = tokenizers.Tokenizer(tokenizers.models.WordPiece(vocabulary, unk_token="[UNK]"))
    made.normalizer, made.pre_tokenizer = normalizer, tokenizers.pre_tokenizers.BertPreTokenizer()
    made.decoder = tokenizers.decoders.WordPiece()
    made.add_special_tokens(list(_SPECIAL))
    made.post_processor = tokenizers.processors.TemplateProcessing(
        single="[CLS]:0 $A:0 [SEP]:0",
        pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1",
        special_tokens=[(token, vocabulary[token]) for token in ("[CLS]", "[SEP]")],
    )
    return made


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
