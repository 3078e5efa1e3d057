"""Make a virtual environment and install the locked packages and this project into it.

Needs nothing but Python 3.11 or newer. The packages are installed by uv, from hashes in
requirements.lock: pip may pick a CPU-only torch that lies around and a torchvision that does not
fit it ("operator torchvision::nms does not exist").

    python3 scripts/setup_venv.py [.venv]
"""

import shutil
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LOCK = ROOT / "requirements.lock"
UV = "uv>=0.9,<1"


def main() -> None:
    if sys.version_info < (3, 11):  # noqa: UP036, the one file that an older Python may start
        sys.exit(f"Python 3.11 or newer is needed; this is {sys.version.split()[0]}. "
                 "Name another one: make PYTHON=python3.12 quickstart")  # fmt: skip
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else ".venv").resolve()
    try:
        venv.create(folder, with_pip=True, upgrade_deps=False, clear=True)
    except subprocess.CalledProcessError:
        shutil.rmtree(folder, ignore_errors=True)
        sys.exit("Python's venv does not work here; on Debian: apt-get install python3-venv")
    python = folder / "bin" / "python"
    run(python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", UV)
    uv = folder / "bin" / "uv"
    # Compiled once, here: in containers PYTHONDONTWRITEBYTECODE is often set, and a shared folder
    # may be read-only; every worker would compile torch and Ray anew, for ten seconds and more.
    install = (uv, "pip", "install", "--quiet", "--compile-bytecode", "--python", python)
    run(*install, "--require-hashes", "--requirement", LOCK)
    # Built with the locked setuptools, so that nothing else is fetched.
    run(*install, "--no-deps", "--no-build-isolation", "--editable", ROOT)


def run(*command: object) -> None:
    """Run a command and end with its exit code if it fails."""
    print(
        "+", *(Path(part).name if isinstance(part, Path) else part for part in command), flush=True
    )
    code = subprocess.run([str(part) for part in command]).returncode
    if code != 0:
        sys.exit(code)


if __name__ == "__main__":
    main()
