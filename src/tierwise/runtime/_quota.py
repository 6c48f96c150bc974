"""How much each principal may ask: a bucket of requests that fills at a rate, and requests under way."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Final, final

from tierwise._clock import Clock
from tierwise._errors import InputError
from tierwise.runtime._guard import Principal
from tierwise.runtime._refusal import Code, RefusalError

__all__ = ["Quota"]

# Principals remembered; strangers have as many addresses as they like, and their number must not cost memory.
_MOST_KNOWN: Final = 4096
_ANY: Final = nullcontext()


@dataclass
class _Use:
    tokens: float
    filled_ns: int
    inside: int = 0


@final
class Quota:
    """Counts what each principal asks; may be used from several threads.

    A token bucket: ``burst`` requests at once, refilled at ``rate_per_s``; a request that finds it empty is refused
    with the time after which one would be let in.

    Args:
        clock: The host's clock.
        rate_per_s: Requests per second; None: any.
        burst: Size of the bucket.
        concurrent: Requests under way at once; None: any.
    """

    def __init__(self, clock: Clock, rate_per_s: float | None, burst: int, concurrent: int | None) -> None:
        self._clock, self._rate_per_s, self._burst, self._concurrent = clock, rate_per_s, burst, concurrent
        self._lock = threading.Lock()
        self._uses: OrderedDict[str, _Use] = OrderedDict()

    def charge(self, principal: Principal) -> None:
        """Count one request.

        Raises:
            RefusalError: EXHAUSTED: there were too many.
        """
        if self._rate_per_s is None:
            return
        with self._lock:
            use, now_ns = self._use(principal.name), self._clock.now_ns()
            use.tokens = min(self._burst, use.tokens + (now_ns - use.filled_ns) / 1e9 * self._rate_per_s)
            use.filled_ns = now_ns
            if use.tokens >= 1.0:
                use.tokens -= 1.0
                return
            wait_s = (1.0 - use.tokens) / self._rate_per_s
        many = InputError(f"{principal.name} may ask {self._rate_per_s:g} times a second", fix="Ask again later")
        raise RefusalError(Code.EXHAUSTED, many, retry_after_s=wait_s)

    def held(self, principal: Principal) -> AbstractContextManager[None]:
        """A request is under way while the block runs.

        Raises:
            RefusalError: EXHAUSTED: as many of this principal's are already.
        """
        return _ANY if self._concurrent is None else self._held(principal, self._concurrent)

    @contextmanager
    def _held(self, principal: Principal, most: int) -> Iterator[None]:
        with self._lock:
            use = self._use(principal.name)
            if use.inside >= most:
                many = InputError(f"{principal.name} may have {most} requests under way", fix="Ask again later")
                raise RefusalError(Code.EXHAUSTED, many, retry_after_s=1.0)
            use.inside += 1
        try:
            yield
        finally:
            with self._lock:
                use.inside -= 1

    def _use(self, name: str) -> _Use:
        use = self._uses.get(name)
        if use is None:
            use = self._uses[name] = _Use(float(self._burst), self._clock.now_ns())
            if len(self._uses) > _MOST_KNOWN:
                self._forget()
        self._uses.move_to_end(name)
        return use

    def _forget(self) -> None:
        """The one that has asked nothing for longest; those with requests under way stay (they are few)."""
        oldest = next((name for name, use in self._uses.items() if use.inside == 0), None)
        if oldest is not None:
            del self._uses[oldest]
