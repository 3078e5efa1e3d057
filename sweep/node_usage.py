"""What the machine was doing while a unit was computed, by epoch; beside the unit's history.

One line of `node.jsonl` belongs to one line of `metrics.jsonl`, named by its number, and holds
means since the line before. Tracking shows them with the history (see sweep/tracking). They are
facts of an attempt, not results: a unit that is computed again has others.
"""

import json
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from sweep.files import read_bounded, write_atomically

FILE = "node.jsonl"
EVERY_S = 15.0  # between two lines; W&B samples a machine as often
_FIRST_AFTER_S = 1.0  # a processor's use over less than that says nothing
_PATIENCE_S = 5.0  # with a driver that does not answer
_GPU_EVERY_S = 2.0  # a GPU tells of its last moment only, so it is asked in between

Usage = dict[str, float]


class NodeUsage:
    """Measures while a unit is computed; in a `with` block a GPU is watched too."""

    def __init__(
        self,
        folder: Path,
        device: str,
        num_rows: int = 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`num_rows`: lines that the unit's history has already; what is of later ones is cut."""
        self._path, self._clock = folder / FILE, clock
        self._began = self._last = clock()
        self._gpu = GpuWatch() if device == "cuda" else None
        self._is_first = True
        with suppress(OSError, psutil.Error):
            psutil.cpu_percent()  # counts from here
        self._before_s = self._keep(num_rows)  # of an attempt that was interrupted

    def _keep(self, num_rows: int) -> float:
        if not self._path.exists():
            return 0.0
        kept = [line for line in read_usage(self._path) if line["row"] < num_rows]
        self._path.unlink()
        if not kept:
            return 0.0
        write_atomically(self._path, "".join(json.dumps(line) + "\n" for line in kept))
        seconds = kept[-1].get("seconds")
        return float(seconds) if isinstance(seconds, int | float) else 0.0

    def note(self, row: int) -> None:
        """Write a line for this row of the history, if it is time for one."""
        now = self._clock()
        if now - self._last < (_FIRST_AFTER_S if self._is_first else EVERY_S):
            return
        self._last, self._is_first = now, False
        gpu = {} if self._gpu is None else self._gpu.means()
        seconds = round(self._before_s + now - self._began, 1)
        with suppress(OSError, psutil.Error):  # only nice to know
            line = {"row": row, "seconds": seconds} | measure() | gpu
            with self._path.open("a") as file:  # opened each time, as the history is
                file.write(json.dumps(line) + "\n")

    def __enter__(self) -> "NodeUsage":
        if self._gpu is not None:
            self._gpu.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._gpu is not None:
            self._gpu.stop()


def measure() -> Usage:
    """Processors since the last call, and memory now, of the whole machine in per cent."""
    memory = psutil.virtual_memory().percent
    return {"cpu_percent": psutil.cpu_percent(), "memory_percent": memory}


class GpuWatch:
    """Means of a GPU's use over the time between two questions."""

    def __init__(self, ask: Callable[[], Usage] | None = None, every_s: float = _GPU_EVERY_S):
        self._ask, self._every_s = ask or ask_gpu, every_s
        self._seen: list[Usage] = []
        self._lock, self._ended = threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def start(self) -> None:
        """Begin to ask."""
        self._thread.start()

    def stop(self) -> None:
        """Ask no more."""
        self._ended.set()
        self._thread.join(_PATIENCE_S)

    def _watch(self) -> None:
        while not self._ended.wait(self._every_s):
            try:
                seen = self._ask()
            except Exception:  # no NVML, a driver of another version: a unit is not worth less
                return
            with self._lock:
                self._seen.append(seen)

    def means(self) -> Usage:
        """By name, over what was seen since the last call; empty if nothing was."""
        with self._lock:
            seen, self._seen = self._seen, []
        return {
            name: round(sum(one[name] for one in seen) / len(seen), 1)
            for name in (seen[0] if seen else ())
        }


def ask_gpu() -> Usage:
    """What this process's GPU is doing now, other processes on it included."""
    import torch

    free, total = torch.cuda.mem_get_info()
    return {
        "gpu_percent": float(torch.cuda.utilization()),  # needs nvidia-ml-py
        "gpu_memory_percent": 100 * (total - free) / total,
        "gpu_power_w": torch.cuda.power_draw() / 1000,
        "gpu_temperature_c": float(torch.cuda.temperature()),
    }


def read_usage(path: Path) -> list[dict[str, Any]]:
    """The lines of a file; those that cannot be read are left out, and a missing file is empty."""
    lines = []
    with suppress(OSError, ValueError):
        for text in read_bounded(path).splitlines():
            with suppress(ValueError, RecursionError):
                line = json.loads(text)
                if isinstance(line, dict) and type(line.get("row")) is int:
                    lines.append(line)
    return lines
