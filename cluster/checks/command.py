"""Other programs, asked with a time limit: some of them wait for ever for a server."""

import json
import shutil
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

_TO_END_S = 5.0  # for a program that was asked to end


@dataclass(frozen=True)
class Answer:
    """How a program ended and what it said."""

    code: int | None  # None: it did not end in time
    out: str
    err: str

    @property
    def is_good(self) -> bool:
        """Whether it ended in time and without an error."""
        return self.code == 0

    @property
    def complaint(self) -> str:
        """Why it is not good: its last words, on one line."""
        if self.code is None:
            return "no answer in time"
        words = (self.err.strip() or self.out.strip()).splitlines()
        return words[-1].strip() if words else f"exit code {self.code}"


def is_installed(name: str) -> bool:
    """Whether there is such a program on the path."""
    return shutil.which(name) is not None


def ask(*command: str, timeout_s: float, environment: dict[str, str] | None = None) -> Answer:
    """Run a program without input; after the time limit it is asked to end, then killed.

    Raises:
        OSError: it cannot be started.
    """
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        env=environment,
    ) as process:  # in this process's group, so that Ctrl-C ends it too
        try:
            out, err = process.communicate(timeout=timeout_s)
            return Answer(process.returncode, out, err)
        except subprocess.TimeoutExpired:
            out, err = _end(process)
            return Answer(None, out, err)
        except BaseException:
            _end(process)
            raise


def _end(process: "subprocess.Popen[str]") -> tuple[str, str]:
    process.terminate()  # first politely: srun then gives its nodes back
    with suppress(subprocess.TimeoutExpired):
        return process.communicate(timeout=_TO_END_S)
    process.kill()
    return "", ""  # not read on: a grandchild may keep the pipes open


def ask_python(code: str, *arguments: str, timeout_s: float) -> tuple[Any, Answer]:
    """Run code in a Python of its own that imports what this one would.

    Returns:
        What the last line of its output is as JSON, None if that is no JSON; and the answer.
    """
    paths = f"import sys; sys.path[:] = {sys.path!r}\n"
    answer = ask(sys.executable, "-c", paths + code, *arguments, timeout_s=timeout_s)
    lines = answer.out.strip().splitlines()
    try:
        return (json.loads(lines[-1]) if answer.is_good and lines else None), answer
    except ValueError:
        return None, answer
