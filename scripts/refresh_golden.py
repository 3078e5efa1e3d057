"""Write the tests' golden files anew from what the code computes now; look at the diff afterwards.

Tests that compare with a golden file write it instead while USWEEP_REFRESH_GOLDEN is 1. Numbers of
the small run are written only if their recipe in unlearning/unit.py was raised too; --force is for
a change of the run itself.

    python scripts/refresh_golden.py [--force] [TEST_FILE ...]
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VARIABLE = "USWEEP_REFRESH_GOLDEN"


def tests_with_golden_files() -> list[str]:
    """Test files that speak of golden files; running a few too many does no harm."""
    found = []
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        text = path.read_text(encoding="utf-8")
        if "golden" in text.lower():
            found.append(str(path.relative_to(ROOT)))
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="*", help="test files; all that have golden files if none")
    parser.add_argument("--force", action="store_true", help="numbers may change without a recipe")
    arguments = parser.parse_args()
    environment = os.environ | {VARIABLE: "1", f"{VARIABLE}_FORCE": str(int(arguments.force))}
    files = arguments.files or tests_with_golden_files()
    command = [sys.executable, "-m", "pytest", *files]
    code = subprocess.run(command, cwd=ROOT, env=environment).returncode
    print("The golden files are up to date." if code == 0 else "Not refreshed; see above.")
    print("What has changed: git diff --stat -- '*/golden/*'")
    return code


if __name__ == "__main__":
    sys.exit(main())
