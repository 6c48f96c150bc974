"""Text subjects: BERT and RoBERTa encoders from transformers configurations, with a classifier, ready for export."""

from __future__ import annotations

from typing import Any, final

import torch
from torch import nn

from tierwise._errors import UnavailableError
from tierwise.tasks._spec import Bert, Roberta
from tierwise.tasks._start import open_start, started
from tierwise.tasks._start_weights import load_start

__all__ = ["BertClassifier", "RobertaClassifier", "build_encoder"]


def build_encoder(subject: Bert | Roberta) -> nn.Module:
    """The encoder with its pooler; random weights, or those of its start.

    Attention is written out as matrix products and a softmax, so that the exported graph holds operators that every
    quantiser knows.

    Raises:
        UnavailableError: transformers is not installed, or the package of the start is not.
        SpecError: The start cannot be used; see `tierwise.tasks._start`.
    """
    encoder = _untrained(started(subject))
    if subject.start is not None:
        start = open_start(subject.start)
        load_start(encoder, start.weights, start.family)
    return encoder


def _untrained(subject: Bert | Roberta) -> nn.Module:
    try:
        from transformers import BertConfig, BertModel, RobertaConfig, RobertaModel
    except ImportError as error:
        raise UnavailableError(
            "a text subject needs the transformers library", fix="Install it with: pip install 'tierwise[train]'"
        ) from error
    layers, hidden = subject.shape
    shape: dict[str, Any] = {
        "vocab_size": subject.vocabulary,
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": subject.heads,
        "intermediate_size": 4 * hidden,
        "hidden_dropout_prob": subject.dropout_frac,
        "attention_probs_dropout_prob": subject.dropout_frac,
        "attn_implementation": "eager",
    }
    if isinstance(subject, Bert):
        bert: nn.Module = BertModel(BertConfig(**shape, max_position_embeddings=512, type_vocab_size=2))
        return bert
    # Positions of RoBERTa start after the padding token's id, hence two rows more.
    config = RobertaConfig(**shape, max_position_embeddings=514, type_vocab_size=1, layer_norm_eps=1e-5)
    roberta: nn.Module = RobertaModel(config)
    return roberta


@final
class BertClassifier(nn.Module):
    """A BERT encoder and a linear classifier on its pooled first token.

    Args:
        subject: Shape of the encoder.
        classes: Width of the answer.
    """

    def __init__(self, subject: Bert, *, classes: int) -> None:
        super().__init__()
        self.encoder = build_encoder(subject)
        self.head = _head(subject, classes)

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, token_type_ids: torch.Tensor
    ) -> torch.Tensor:
        """Logits [n, classes] of token rows [n, length]."""
        mask = _additive(attention_mask)
        pooled = self.encoder(input_ids=input_ids, attention_mask=mask, token_type_ids=token_type_ids).pooler_output
        logits: torch.Tensor = self.head(pooled)
        return logits


@final
class RobertaClassifier(nn.Module):
    """A RoBERTa encoder and a linear classifier on its pooled first token.

    Args:
        subject: Shape of the encoder.
        classes: Width of the answer.
    """

    def __init__(self, subject: Roberta, *, classes: int) -> None:
        super().__init__()
        self.encoder = build_encoder(subject)
        self.head = _head(subject, classes)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Logits [n, classes] of token rows [n, length]."""
        # Positions count real tokens from 2 on (the padding token's id is 1); given here, they need no buffer lookup.
        positions = torch.cumsum(attention_mask, dim=1) * attention_mask + 1
        pooled = self.encoder(
            input_ids=input_ids,
            attention_mask=_additive(attention_mask),
            token_type_ids=torch.zeros_like(input_ids),
            position_ids=positions,
        ).pooler_output
        logits: torch.Tensor = self.head(pooled)
        return logits


def _head(subject: Bert | Roberta, classes: int) -> nn.Sequential:
    hidden = started(subject).shape[1]
    linear = nn.Linear(hidden, classes)
    nn.init.normal_(linear.weight, std=0.02)
    nn.init.zeros_(linear.bias)
    return nn.Sequential(nn.Dropout(subject.dropout_frac), linear)


def _additive(attention_mask: torch.Tensor) -> torch.Tensor:
    """0 where a token stands and -64 where a row is padded, [n, 1, 1, length], to be added to attention scores.

    exp(-64) is below the resolution of float32, so nothing of the padding is seen; and unlike the most negative float,
    it leaves the sum in a range that an 8-bit quantiser can hold.
    """
    return (attention_mask[:, None, None, :].to(torch.float32) - 1.0) * 64.0
