import threading
import time
from typing import Any

import pytest

from tierwise._clock import SystemClock
from tierwise.artifact import Artifact
from tierwise.runtime import Share
from tierwise.runtime._call import Call
from tierwise.runtime._line import Line, Ticket
from tierwise.runtime._observer import SilentObserver
from tierwise.runtime._refusal import Code, RefusalError
from tierwise.runtime._served import Served
from tierwise.runtime._visit import Visit
from tierwise.wire import infer_request


def test_the_crowd_of_one_model_leaves_the_others_room(chain: Artifact, inputs: dict[str, Any]) -> None:
    clock = SystemClock()
    line, answered = Line(1, clock), []
    crowded, other = (
        Served(name, "1", chain, share, 1, None, line, None, SilentObserver())
        for name, share in (("crowded", Share(max_waiting=2)), ("other", Share()))
    )

    def ask(model: Served) -> None:
        call = Call(model.name, infer_request(model.name, inputs), lambda _: b"", 0, clock.now_ns())
        answered.append(model.answer(call, Visit("t", line, 1.0, clock)).model)

    waiting = [threading.Thread(target=ask, args=(model,)) for model in (crowded, crowded, other)]
    with line.turn(Ticket()):
        for thread in waiting:
            thread.start()
        while len(line) < len(waiting):
            time.sleep(0.0005)
        with pytest.raises(RefusalError, match="at most 2 requests may wait for the model") as refused:
            ask(crowded)
        assert (refused.value.code, refused.value.retry_after_s) == (Code.EXHAUSTED, 1.0)
    for thread in waiting:
        thread.join()
    ask(crowded)  # there is room again
    assert sorted(answered) == ["crowded", "crowded", "crowded", "other"]
