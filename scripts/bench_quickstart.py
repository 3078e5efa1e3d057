"""The quickstart from the end of the installation to its tables: seconds, and memory of all.

Runs the quickstart in a new folder and adds up, ten times a second, the memory of its process and
all of its descendants: as PSS, which counts a page shared by several processes once, and as RSS,
which counts it in each.

    python scripts/bench_quickstart.py
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parent.parent


def memory_mib(process: psutil.Process) -> tuple[float, float, int]:
    """PSS and RSS in MiB, and the number of processes, of a process and its descendants."""
    pss = rss = 0.0
    processes = [process, *process.children(recursive=True)]
    for one in processes:
        try:
            memory = one.memory_full_info()
        except psutil.Error:
            continue  # it ended between the two looks
        pss, rss = pss + memory.pss, rss + memory.rss
    return pss / 2**20, rss / 2**20, len(processes)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        places = [f"output.store={folder}/store", f"output.runs={folder}/runs"]
        config = ROOT / "configs" / "quickstart.yaml"
        command = [sys.executable, "-m", "sweep", "run", str(config), *places]
        command.append(f"data.root={folder}/data")
        started = time.perf_counter()
        run = subprocess.Popen(command, cwd=ROOT)
        process, peak = psutil.Process(run.pid), (0.0, 0.0, 0)
        while run.poll() is None:
            try:
                now = memory_mib(process)
            except psutil.NoSuchProcess:
                break
            peak = max(peak[0], now[0]), max(peak[1], now[1]), max(peak[2], now[2])
            time.sleep(0.1)
        code = run.wait()
        seconds = time.perf_counter() - started
        report = Path(folder) / "runs" / "quickstart" / "report" / "report.md"
        assert code == 0 and report.is_file(), code
    print(f"quickstart: {seconds:.0f} s on {len(os.sched_getaffinity(0))} cores")
    print(f"peak memory of all {peak[2]} processes: PSS {peak[0]:.0f} MiB, RSS {peak[1]:.0f} MiB")


if __name__ == "__main__":
    main()
