import subprocess
import sys

import pytest

_WAITS = """
import os, signal, threading, time
from tierwise._signals import Signals

def later(act):
    other = threading.Thread(target=lambda: (time.sleep(0.3), act(), time.sleep(0.3)))
    other.start()
    return other

with Signals() as signals:
    {told}
    signals.wait()
print("ended", signal.getsignal(signal.SIGTERM) is signal.SIG_DFL, signal.set_wakeup_fd(-1))
"""


@pytest.mark.parametrize(
    "told",
    [
        pytest.param("os.kill(os.getpid(), signal.SIGTERM)", id="before it waits"),
        pytest.param("later(lambda: os.kill(os.getpid(), signal.SIGINT))", id="while it waits"),
        # The kernel may give a process's signal to any of its threads; this one gets it for certain.
        pytest.param("later(lambda: signal.pthread_kill(threading.get_ident(), signal.SIGTERM))", id="another thread"),
        pytest.param("later(signals.end)", id="end"),
        pytest.param(
            "signal.signal(signal.SIGUSR1, print); os.kill(os.getpid(), signal.SIGUSR1); later(signals.end)",
            id="another one",
        ),
    ],
)
def test_being_told_to_stop_is_heard(told: str) -> None:
    ran = subprocess.run(
        [sys.executable, "-c", _WAITS.format(told=told)], capture_output=True, text=True, timeout=30, check=True
    )
    assert ran.stdout.splitlines()[-1] == "ended True -1", ran.stderr
