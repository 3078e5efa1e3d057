"""Checks that the descriptions of clusters have in common."""

import re
from collections.abc import Mapping

from cluster.errors import ClusterError

# Names such as WANDB_API_KEY, RAY_AUTH_TOKEN or AWS_SECRET_ACCESS_KEY.
_SECRET = re.compile(r"(KEY|TOKEN|SECRET|PASSWORD|CREDENTIALS)$", re.IGNORECASE)
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def require(is_allowed: bool, name: str, value: object, allowed: str) -> None:
    """Refuse a setting.

    Raises:
        ClusterError: names the setting, its value and what is allowed.
    """
    if not is_allowed:
        raise ClusterError(f"cluster: {name} is {value!r}; allowed: {allowed}")


def require_open_environment(environment: Mapping[str, str], instead: str) -> None:
    """Refuse variables whose values must not be written into a manifest or a job's description.

    Args:
        instead: where a secret belongs; ends the message.

    Raises:
        ClusterError: a name that is no variable's, or that of a secret; values are never shown.
    """
    for name in environment:
        allowed = "letters, digits and _, no digit first"
        require(_VARIABLE.fullmatch(name) is not None, "a variable's name", name, allowed)
        if _SECRET.search(name):
            raise ClusterError(
                f"cluster: {name} would be written down where others can read it; {instead}"
            )


def one_line(text: str) -> str:
    """What a program or server said, as one line: of a Python traceback the last, else the first.

    Lines that say nothing of their own, such as kubectl's warnings, are left out.
    """
    lines = [line.strip() for line in text.splitlines()]
    lines = [line for line in lines if re.search(r"\w", line) and not line.startswith("Warning:")]
    if not lines:
        return "no reason given"
    return lines[-1] if any("Traceback (most" in line for line in lines) else lines[0]
