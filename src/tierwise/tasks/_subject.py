"""From a subject's spec to its untrained module; torch comes when it is called."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tierwise.tasks._llama_spec import Llama
from tierwise.tasks._picture_spec import DenseNet, Inception, MobileNetV2
from tierwise.tasks._spec import Bert, FastestDet, Roberta, Subject

if TYPE_CHECKING:
    from torch import nn

__all__ = ["build_decoder", "build_subject"]


def build_subject(subject: Subject, *, classes: int, channels: int = 3) -> nn.Module:
    """An untrained module; under ``torch.device("meta")`` it costs no memory.

    Args:
        subject: Which one.
        classes: Width of the answer.
        channels: Channels of the picture (ignored by text subjects).

    Raises:
        SpecError: A depth that the family does not have.
        UnavailableError: A text subject, and transformers is not installed.
    """
    from tierwise.tasks._densenet import DenseNetNet
    from tierwise.tasks._encoder import BertClassifier, RobertaClassifier
    from tierwise.tasks._fastestdet import FastestDetNet
    from tierwise.tasks._inception import InceptionNet
    from tierwise.tasks._mobilenet import MobileNetV2Net
    from tierwise.tasks._residual import ResidualNet, residual_plan

    match subject:
        case Bert():
            return BertClassifier(subject, classes=classes)
        case Roberta():
            return RobertaClassifier(subject, classes=classes)
        case FastestDet():
            return FastestDetNet(subject, classes=classes)
        case MobileNetV2():
            return MobileNetV2Net(subject, channels=channels, classes=classes)
        case DenseNet():
            return DenseNetNet(subject, channels=channels, classes=classes)
        case Inception():
            return InceptionNet(subject, channels=channels, classes=classes)
        case _:
            return ResidualNet(residual_plan(subject), channels=channels, classes=classes)


def build_decoder(spec: Llama) -> nn.Module:
    """An untrained decoder in evaluation mode: token rows [n, length] in, logits [n, length, vocabulary] out.

    Args:
        spec: Its sizes.

    Raises:
        SpecError: Heads that do not fit.
    """
    from tierwise.tasks._llama import LlamaNet

    return LlamaNet(spec).eval()
