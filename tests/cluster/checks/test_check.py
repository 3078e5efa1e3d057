"""Checks are made side by side, keep their order, and crash alone."""

import sys
import time

import pytest

from cluster.checks.check import Check, Skip, Status, ok, problem, run_checks
from cluster.checks.command import ask, ask_python


def test_findings_keep_the_order_and_a_crash_is_a_problem_of_its_own() -> None:
    def crash() -> None:
        raise ValueError("of two\nlines \x1b[31m")

    def skip() -> None:
        raise Skip("nothing here")

    looks = {"slow": lambda: time.sleep(0.1) or ok("fine"), "crash": crash, "skip": skip}
    lanes = [[Check(name, look)] for name, look in looks.items()]  # type: ignore[arg-type]
    found = run_checks([*lanes, [], [Check("last", lambda: problem("a", "b"))]])
    assert [finding.name for finding in found] == ["slow", "crash", "skip", "last"]
    assert [finding.status for finding in found] == ["ok", "problem", "skipped", "problem"]
    assert found[1].seen == "the check failed (ValueError: of two lines ?[31m)"
    assert found[2].status is Status.SKIPPED and found[2].seen == "nothing here"


@pytest.mark.parametrize(
    "code", ["import time; time.sleep(60)", "import os; os.system('sleep 15')"]
)
def test_a_program_that_does_not_answer_is_ended(code: str) -> None:
    began = time.monotonic()
    answer = ask(sys.executable, "-c", code, timeout_s=0.5)
    assert answer.code is None and answer.complaint == "no answer in time"
    assert time.monotonic() - began < 10


def test_what_is_no_json_is_none() -> None:
    assert ask_python("print('[1]')", timeout_s=20)[0] == [1]
    assert ask_python("print('nonsense')", timeout_s=20)[0] is None
    found, answer = ask_python("raise SystemExit('why')", timeout_s=20)
    assert found is None and answer.complaint == "why"
