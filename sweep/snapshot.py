"""A sweep's state at one moment: what its driver leaves in a file, and the words for it."""

from dataclasses import dataclass, field

FILE = "progress.json"
STATES = ("done", "running", "waiting", "failed", "blocked")
MAX_FINISHED = 12  # of the units finished last, as many as are kept to be shown


@dataclass
class Snapshot:
    """A sweep's state at one moment, as `progress.json` holds it."""

    host: str = ""
    pid: int = 0
    updated: float = 0.0  # seconds since 1970
    elapsed_s: float = 0.0
    time_left_s: float | None = None  # None: no unit has finished yet
    units: dict[str, dict[str, int]] = field(default_factory=dict)  # kind -> state -> count
    not_converged: int = 0
    running: list[str] = field(default_factory=list)
    ended: bool = False
    phase: str = ""  # what it does besides computing, such as "starting Ray"
    units_per_h: float | None = None  # of late; None: no unit has finished yet
    running_s: dict[str, float] = field(default_factory=dict)  # unit's key -> since it started
    finished: dict[str, float] = field(default_factory=dict)  # unit's key -> when, since 1970


def totals(snapshot: Snapshot) -> dict[str, int]:
    """Units by state over all kinds, and their sum under `all`."""
    counts = {
        state: sum(kind.get(state, 0) for kind in snapshot.units.values()) for state in STATES
    }
    return counts | {"all": sum(counts.values())}


def summary(snapshot: Snapshot) -> str:
    """The state as one plain line for a log."""
    count = totals(snapshot)
    parts = [f"{count['done']}/{count['all']} units done", f"{count['running']} running"]
    parts += [f"{count[state]} {state}" for state in ("failed", "blocked") if count[state]]
    if snapshot.not_converged:
        parts.append(f"{snapshot.not_converged} not converged")
    parts.append(f"elapsed {duration(snapshot.elapsed_s)}")
    parts.append(f"left {duration(snapshot.time_left_s)}")
    return ", ".join(parts)


def duration(seconds: float | None) -> str:
    """A length of time for people: 45 s, 12 min, 3 h 05 min; a dash if unknown."""
    if seconds is None:
        return "-"
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"


def throughput(units_per_h: float) -> str:
    """Units a minute or an hour, whichever is the easier number."""
    if units_per_h >= 120:
        return f"{units_per_h / 60:,.0f} units/min"
    return f"{units_per_h:.3g} units/h"
