"""How a sweep ends before its time: on a signal, or because its store takes no more.

What is being computed is asked to stop at its next checkpoint, by a file that the workers look for.
After the grace time the rest is ended as it is; it continues from the checkpoint before.

Whoever is not its parent asks by a file instead of a signal: `usweep cancel`, and what supervises
it on a cluster, where SLURM may send the same signal itself and two of them mean at once.
"""

import os
import signal
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from types import FrameType

from rich.console import Console
from rich.text import Text

from sweep.errors import one_line

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_LOOK_EVERY_S = 1.0  # for files that ask


class Ending:
    """Whether a sweep is to end, and why; in a `with` block it listens for signals.

    The first Ctrl-C or SIGTERM begins the end, the second is the end.
    """

    def __init__(
        self,
        drain_file: Path,
        grace_s: float,
        console: Console,
        requests: Mapping[str, Path] | None = None,
    ) -> None:
        """`requests`: by who asks, a file whose existence asks to end like a signal."""
        self.drain_file, self._grace_s, self._console = drain_file, grace_s, console
        self._requests = requests or {}
        self._asked_by: str | None = None
        self.asked_by: str | None = None  # a signal's name, or one of `requests`
        self.reason: str | None = None  # what went wrong; None if somebody asked
        self.on_begin: Callable[[], None] = lambda: None
        self._timer: threading.Timer | None = None
        self._before: dict[signal.Signals, object] = {}
        self._left = threading.Event()

    @property
    def has_begun(self) -> bool:
        """Whether the sweep is to end."""
        return self._timer is not None

    def stop(self, reason: str) -> None:
        """End the sweep because something is wrong that concerns all units."""
        if not self.has_begun:
            self.reason = reason
            words = Text.assemble(("stopping:", "red"), f" {one_line(reason)}")
            self._console.print(words, soft_wrap=True)
            self._begin()

    def _begin(self) -> None:
        self._timer = threading.Timer(self._grace_s, _interrupt_tune)
        self._timer.daemon = True
        self._timer.start()
        with suppress(OSError):  # a full disk: the grace time ends what is not told
            self.drain_file.touch()
        self.on_begin()

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.has_begun:
            os._exit(128 + number)
        self.asked_by = self._asked_by or signal.Signals(number).name
        self._console.print(
            f"{self.asked_by}: ending; what is finished is kept, and units under way stop at a "
            f"checkpoint within {self._grace_s:g} s (once more to end at once)",
            soft_wrap=True,
        )
        self._begin()
        if not _is_tune_running():
            raise KeyboardInterrupt

    def _look_for_requests(self) -> None:
        while not self.has_begun:
            for name, path in self._requests.items():
                if path.exists() and not self.has_begun:
                    self._asked_by = name
                    # To the main thread, which alone can leave whatever it is doing.
                    os.kill(os.getpid(), signal.SIGTERM)
                    return
            if self._left.wait(_LOOK_EVERY_S):
                return

    def listen(self) -> None:
        """Take the signals, also back from a Ray that has just been started."""
        for number in _SIGNALS:
            handler = signal.signal(number, self._on_signal)
            self._before.setdefault(number, handler)

    def __enter__(self) -> "Ending":
        self.drain_file.unlink(missing_ok=True)
        self.listen()
        if self._requests:
            threading.Thread(target=self._look_for_requests, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self._left.set()
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        if self._timer is not None:
            self._timer.cancel()
        with suppress(OSError):
            self.drain_file.unlink(missing_ok=True)


def _is_tune_running() -> bool:
    return callable(signal.getsignal(signal.SIGUSR1))


def _interrupt_tune() -> None:
    """Tune ends its loop on this signal, and stops what still runs."""
    if _is_tune_running():
        os.kill(os.getpid(), signal.SIGUSR1)
