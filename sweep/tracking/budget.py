"""So many requests a minute and no more."""

import threading
import time
from collections.abc import Callable


class Budget:
    """A bucket that holds a tenth of a minute's requests, and in a minute fills with the rest.

    So no minute has more than its number, whenever it begins.
    """

    def __init__(
        self,
        per_minute: float,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._per_s, self._clock, self._sleep = 0.9 * per_minute / 60, clock, sleep
        self._most = per_minute / 10
        self._left, self._filled = self._most, clock()
        self._lock = threading.Lock()

    def spend(self, count: float) -> None:
        """Requests that were made without asking, such as those of open runs."""
        with self._lock:
            self._fill()
            self._left -= count

    def take(self, count: float) -> None:
        """Wait until so many may be made."""
        with self._lock:
            self._fill()
            self._left -= count
            wait_s = max(0.0, -self._left / self._per_s)
        if wait_s > 0:
            self._sleep(wait_s)

    def _fill(self) -> None:
        now = self._clock()
        self._left = min(self._most, self._left + (now - self._filled) * self._per_s)
        self._filled = now
