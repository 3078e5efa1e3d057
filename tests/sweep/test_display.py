"""What is drawn of a sweep fits the terminal, and anything else gets no escape codes."""

import dataclasses
import fcntl
import io
import json
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from rich.cells import cell_len
from rich.console import Console

from sweep.cli import main
from sweep.config import ResolvedConfig
from sweep.display import MAX_ROWS, Picture, draw
from sweep.failures import Failure, write_failure
from sweep.files import write_atomically
from sweep.glance import Glance
from sweep.overview import describe_status, run_status
from sweep.plan import Plan
from sweep.run import write_run_folder
from sweep.snapshot import FILE, STATES, Snapshot, throughput
from sweep.tracking.status import TrackingStatus

HOSTILE = "two_stage \x1b[2J\x1b]0;t\x07 日本語日本語 [/red]\n12.5 % minimum seed 0"
LONG = "two_stage fashion_mnist 12.5 % second_largest seed 10"


def lines_of(renderable: object, width: int, height: int = 24, terminal: bool = True) -> list[str]:
    """What a terminal would show, without colours."""
    console = Console(
        file=io.StringIO(),
        width=width,
        height=height,
        force_terminal=terminal,
        color_system=None,
        markup=False,
    )
    with console.capture() as captured:
        console.print(renderable)
    return captured.get().splitlines()


def units(**counts: int) -> dict[str, dict[str, int]]:
    none = dict.fromkeys(STATES, 0)
    return {"original": none | counts, "scratch": dict(none), "two_stage": none | counts}


def crowded(num_running: int, label: str = LONG) -> Picture:
    """Everything at once: many units, failures, jobs, long names."""
    running = [Glance(label, 7e5, ("stage 2, epoch 12/250", "valid. 93.1 %"))] * num_running
    snapshot = Snapshot(
        host="node-with-a-long-name.cluster.example.org",
        pid=4194304,
        elapsed_s=4e5,
        time_left_s=4e5,
        units_per_h=12345,
        units=units(done=123456, running=num_running, waiting=99999, failed=1234, blocked=4321),
        not_converged=1234,
    )
    return Picture(
        "a-sweep-with-a-very-long-name-" * 4,
        "running on node-with-a-long-name.cluster.example.org, process 4194304",
        snapshot,
        is_alive=True,
        running=running,
        finished=[Glance(label, 3661, ("test 93.9 %", "forget 100.0 %"), False)] * MAX_ROWS,
        failures=[(label, f"RuntimeError: cause {n} " + "x" * 300) for n in range(40)],
        jobs=["4711: driver, 16 nodes, running"] * 9,
    )


# ---- what is drawn ----


@pytest.mark.parametrize("width", [80, 120, 140, 200])
@pytest.mark.parametrize("height", [10, 24, 50])
@pytest.mark.parametrize("label", [LONG, HOSTILE.replace("\n", " ")])
def test_everything_at_once_fits_the_terminal(width: int, height: int, label: str) -> None:
    picture = crowded(256, "".join(c if c.isprintable() else "?" for c in label))
    tracking = "W&B: online, 480 of 500 units sent, https://wandb.ai/" + "x" * 200
    for shown in (picture, dataclasses.replace(picture, failures=[], jobs=[])):
        lines = lines_of(draw(shown, tracking, fits=True), width, height)
        assert max(map(cell_len, lines)) <= width
        assert len(lines) < height
        assert any(line.startswith("W&B: online, 480 of 500 units sent") for line in lines)


@pytest.mark.parametrize(("width", "height"), [(80, 24), (80, 50), (200, 24), (200, 50)])
def test_of_many_units_the_first_are_shown_and_the_others_counted(width: int, height: int) -> None:
    picture = dataclasses.replace(crowded(256), failures=[], jobs=[])
    text = "\n".join(lines_of(draw(picture, fits=True), width, height))
    shown = text.count("stage 2, epoch 12/250")
    assert shown >= 2
    assert f"and {256 - shown} more" in text
    if height == 50:
        assert "and 244 more" in text


@pytest.mark.parametrize("width", [80, 200])
def test_nothing_is_cut_in_the_middle_of_a_number(width: int) -> None:
    text = " ".join(lines_of(draw(crowded(3), fits=True), width, 50))
    for number in ("246,912/458,026", "12.5 %", "seed 10", "12/250", "1,234 not", "206 units/min"):
        assert number in text


def test_failures_come_by_cause_with_the_first_unit_of_each() -> None:
    failures = [(f"scratch digits 5 % seed {n}", "OSError: no space") for n in range(500)]
    failures.append(("original digits seed 9", "ValueError: bad"))
    picture = Picture("s", "running", Snapshot(units=units(failed=501)), True, failures=failures)
    for width in (80, 200):
        text = "\n".join(lines_of(draw(picture, fits=True), width))
        assert re.search(r"scratch digits 5 % seed 0 and 499 more.*\n.*OSError: no space", text)
        assert re.search(r"original digits seed 9.*\n.*ValueError: bad", text)
    whole = lines_of(draw(picture), 80)
    assert sum("OSError: no space" in line for line in whole) == 500


def test_clocks_go_on_between_two_looks_only_while_the_sweep_runs() -> None:
    snapshot = Snapshot(elapsed_s=10, time_left_s=3)
    picture = Picture("s", "running", snapshot, True, running=[Glance("a", 5.0), Glance("b")])
    later = picture.aged(4)
    assert (later.snapshot.elapsed_s, later.snapshot.time_left_s) == (14, 0)
    assert [one.seconds for one in later.running] == [9, None]
    assert dataclasses.replace(picture, is_alive=False).aged(4).snapshot.elapsed_s == 10


@pytest.mark.parametrize(
    ("per_hour", "text"),
    [(0.51, "0.51 units/h"), (119, "119 units/h"), (7200, "120 units/min")],
)
def test_throughput_reads_well(per_hour: float, text: str) -> None:
    assert throughput(per_hour) == text


# ---- the commands, in a pipe and in a terminal ----


@pytest.fixture
def run_folder(tiny: ResolvedConfig, tiny_plan: Plan) -> Path:
    """A run that lives, with a unit under way and one that failed, by names that do harm."""
    write_run_folder(tiny, tiny_plan)
    folder = tiny.sweep.run_folder
    failed, key, *_ = tiny_plan.units
    write_failure(folder, Failure(failed, "RuntimeError: \x1b[2J [/red] no space", "", "", ""))
    under_way = Path(tiny.sweep.output.store) / "building" / key / "holder" / "metrics.jsonl"
    epoch = '{"state": "scratch", "epoch": 1, "validation_accuracy": 0.5}\n'
    write_atomically(under_way, epoch)
    snapshot = Snapshot(
        host="here\x1b[2J",
        pid=1,
        updated=time.time(),
        elapsed_s=60,
        units={"scratch": {"running": 1}},
        running_s={key: 7.0},
        phase="\x1b[2J",
    )
    (folder / FILE).write_text(json.dumps(dataclasses.asdict(snapshot)))
    return folder


def end(run_folder: Path) -> None:
    content = json.loads((run_folder / FILE).read_bytes())
    (run_folder / FILE).write_text(json.dumps(content | {"ended": True}))


@pytest.mark.parametrize("width", [80, 200])
@pytest.mark.parametrize("terminal", [False, True])
def test_status_shows_a_hostile_run_harmlessly(
    run_folder: Path, width: int, terminal: bool
) -> None:
    TrackingStatus(state="waiting", problem="\x1b[2J no route").write(run_folder)
    status = run_status(run_folder)
    for fits in (False, True):
        text = "\n".join(lines_of(describe_status(status, fits), width, 24, terminal))
        assert "\x1b" not in text
        for word in ("tiny", "epoch 1/2", "valid. 50.0 %", "no space", "W&B online", "blocked"):
            assert word in text
        if not terminal:
            assert r"failed: original digits seed 0: RuntimeError: \x1b[2J [/red] no space" in text


class Terminal:
    """A command in a pseudo-terminal."""

    def __init__(self, process: subprocess.Popen[bytes], master: int) -> None:
        self.process, self._master, self.text = process, master, ""

    def read(self, until: str | None = None) -> str:
        """What was written until these words came, or until the end."""
        while until is None or until not in self.text:
            try:
                piece = os.read(self._master, 65536)
            except OSError:  # closed by its last process
                piece = b""
            if not piece:
                break
            self.text += piece.decode(errors="replace")
        return self.text


@contextmanager
def in_terminal(command: list[str], width: int = 80, **environment: str) -> Iterator[Terminal]:
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, width, 0, 0))
    clean = ("COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE")
    env = {key: value for key, value in os.environ.items() if key not in clean}
    env |= {"TERM": "xterm-256color"} | environment
    with subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave, env=env) as process:
        os.close(slave)
        try:
            yield Terminal(process, master)
        finally:
            process.kill()
            os.close(master)


def usweep(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "sweep", *map(str, arguments)]


# Several commands in one process, since the start of one takes a second.
ALL = """
import shlex, sys
from sweep.cli import main
for line in sys.argv[1:]:
    sys.argv = ["usweep", *shlex.split(line)]
    try:
        main()
    except SystemExit as ended:
        print(f"{line}: exit code {ended.code or 0}")
"""

LIGHT = ("status RUN", "status --watch RUN", "status none", "statsu")
HEAVY = ("plan FILE", "report RUN")  # they import more


def several(commands: tuple[str, ...], run_folder: Path, config: Path) -> list[str]:
    end(run_folder)
    lines = [c.replace("RUN", str(run_folder)).replace("FILE", str(config)) for c in commands]
    return [sys.executable, "-c", ALL, *lines]


@pytest.mark.parametrize(
    ("environment", "commands"),
    [({"NO_COLOR": "1"}, LIGHT + HEAVY), ({"TERM": "dumb"}, LIGHT)],
)
def test_no_command_gives_an_escape_code_where_none_is_wanted(
    run_folder: Path, tiny_file: Path, environment: dict[str, str], commands: tuple[str, ...]
) -> None:
    with in_terminal(several(commands, run_folder, tiny_file), **environment) as terminal:
        text = terminal.read()
    assert "\x1b" not in text
    codes = re.findall(r"exit code (\d)", text)
    assert len(codes) == len(commands) and codes[:4] == ["0", "0", "2", "2"], text
    assert "7 units" in text or commands == LIGHT


def test_no_command_gives_an_escape_code_into_a_pipe(run_folder: Path, tiny_file: Path) -> None:
    done = subprocess.run(several(LIGHT, run_folder, tiny_file), capture_output=True, timeout=100)
    assert b"\x1b" not in done.stdout + done.stderr
    assert b"not running" in done.stdout
    assert done.stderr.startswith(b"error: ") and b"No such command" in done.stderr


def test_watch_in_a_terminal_has_colours_and_leaves_the_last_state(run_folder: Path) -> None:
    with in_terminal(usweep("status", "--watch", run_folder)) as terminal:
        during = terminal.read(until="epoch 1/2")
        end(run_folder)
        text = terminal.read()
        assert terminal.process.wait() == 0
    assert "\x1b[?1049h" in during and "\x1b[31m" in during  # the whole terminal, and red
    _, left = text.split("\x1b[?1049l")  # its text is back
    assert left.count("not running; the same `usweep run` continues it") == 1
    assert "no space" in left


def test_ctrl_c_ends_the_watching_alone(run_folder: Path) -> None:
    before = (run_folder / FILE).read_bytes()
    with in_terminal(usweep("status", "--watch", run_folder)) as terminal:
        terminal.read(until="epoch 1/2")
        terminal.process.send_signal(signal.SIGINT)
        text = terminal.read()
        assert terminal.process.wait() == 130
    assert "Traceback" not in text and "Aborted" not in text
    assert "running on" in text.split("\x1b[?1049l")[1]
    assert "\x1b[?25h" in text  # the cursor is shown again
    assert (run_folder / FILE).read_bytes() == before


def test_watch_into_a_pipe_prints_lines_and_the_last_state(
    run_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def sleep(_: float) -> None:
        end(run_folder)

    monkeypatch.setattr("sweep.overview.time.sleep", sleep)
    monkeypatch.setattr(sys, "argv", ["usweep", "status", "--watch", str(run_folder)])
    with pytest.raises(SystemExit) as ended:
        main()
    first, *block = capsys.readouterr().out.splitlines()
    assert not ended.value.code
    assert first.startswith(r"tiny: running on here\x1b[2J, process 1 (\x1b[2J): 0/7 units done")
    assert block[0] == "tiny: not running; the same `usweep run` continues it"
