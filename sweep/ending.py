"""How a sweep ends before its time: on a signal, or because its store takes no more.

What is being computed is asked to stop at its next checkpoint, by a file that the workers look for.
After the grace time the rest is ended as it is; it continues from the checkpoint before.
"""

import os
import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import FrameType

from rich.console import Console
from rich.text import Text

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Ending:
    """Whether a sweep is to end, and why; in a `with` block it listens for signals.

    The first Ctrl-C or SIGTERM begins the end, the second is the end.
    """

    def __init__(self, drain_file: Path, grace_s: float, console: Console) -> None:
        self.drain_file, self._grace_s, self._console = drain_file, grace_s, console
        self.signal_name: str | None = None
        self.reason: str | None = None  # what went wrong; None if somebody asked
        self.on_begin: Callable[[], None] = lambda: None
        self._timer: threading.Timer | None = None
        self._before: dict[signal.Signals, object] = {}

    @property
    def has_begun(self) -> bool:
        """Whether the sweep is to end."""
        return self._timer is not None

    def stop(self, reason: str) -> None:
        """End the sweep because something is wrong that concerns all units."""
        if not self.has_begun:
            self.reason = reason
            words = Text.assemble(("stopping:", "red"), f" {reason}")
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
        self.signal_name = signal.Signals(number).name
        self._console.print(
            f"{self.signal_name}: ending; what is finished is kept, and units under way stop at a "
            f"checkpoint within {self._grace_s:g} s (once more to end at once)",
            soft_wrap=True,
        )
        self._begin()
        if not _is_tune_running():
            raise KeyboardInterrupt

    def listen(self) -> None:
        """Take the signals, also back from a Ray that has just been started."""
        for number in _SIGNALS:
            handler = signal.signal(number, self._on_signal)
            self._before.setdefault(number, handler)

    def __enter__(self) -> "Ending":
        self.drain_file.unlink(missing_ok=True)
        self.listen()
        return self

    def __exit__(self, *error: object) -> None:
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
