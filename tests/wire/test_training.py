"""Notes between a node and its training process, and what a client may ask."""

from __future__ import annotations

import io

import msgspec
import numpy as np
import pytest

from tierwise._errors import InputError, RemoteError, TierwiseError
from tierwise.wire import (
    LABELS,
    TrainerAsk,
    TrainerTold,
    TrainingClient,
    TrainingOrder,
    TrainingProgress,
    read_note,
    write_note,
)


def test_notes_come_as_they_were_sent() -> None:
    pipe = io.BytesIO()
    told = TrainerTold(progress=TrainingProgress(steps=3, losses=(0.5, 0.25)), id=7, loss=0.25, swapped=True)
    write_note(pipe, TrainerAsk(id=1, verb="batch", step=2), b"\0batch")
    write_note(pipe, told)
    pipe.seek(0)
    assert read_note(pipe, TrainerAsk) == (TrainerAsk(id=1, verb="batch", step=2), b"\0batch")
    assert read_note(pipe, TrainerTold) == (told, b"")
    assert read_note(pipe, TrainerTold) is None


def test_a_note_cut_off_by_a_kill_is_the_end_of_the_pipe() -> None:
    pipe = io.BytesIO()
    write_note(pipe, TrainerAsk(id=1, verb="apply"), b"delta")
    for size in range(len(pipe.getvalue())):
        assert read_note(io.BytesIO(pipe.getvalue()[:size]), TrainerAsk) is None


def test_what_is_no_note_is_told_as_such() -> None:
    pipe = io.BytesIO()
    write_note(pipe, TrainingProgress(), b"")
    pipe.seek(0)
    with pytest.raises(TierwiseError, match="must bring notes"):
        read_note(pipe, TrainerAsk)


@pytest.mark.parametrize(
    "order", [{"share_frac": 0}, {"share_frac": 1.5}, {"rate": 0}, {"checkpoint_every": 0}, {"steps": 0}, {"more": 1}]
)
def test_an_order_out_of_bounds_is_none(order: dict[str, float]) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(order, TrainingOrder)


def test_a_client_says_what_is_wrong_before_and_after_sending() -> None:
    with TrainingClient("127.0.0.1:9", timeout_s=5) as client:
        with pytest.raises(InputError, match="may be called 'labels'"):
            client.batch("m", {LABELS: np.zeros(2)}, np.zeros(2, np.int64))
        with pytest.raises(RemoteError, match="must answer Status for model 'm'"):
            client.status("m")
