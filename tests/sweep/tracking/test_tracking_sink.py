"""The sink's decisions, with runs that are kept in memory and a clock of the test's own."""

import time
from collections.abc import Callable, Collection, Mapping
from typing import Any

import pytest
from made_up_ledger import MadeUpLedger

from sweep.failures import Failure
from sweep.plan import PlannedUnit
from sweep.store import METRICS, Record
from sweep.tracking.book import Book
from sweep.tracking.budget import Budget
from sweep.tracking.content import tags_of
from sweep.tracking.errors import ClientDied, Refused, RunRefused, Unreachable
from sweep.tracking.runs import Arrived
from sweep.tracking.sink import MAX_SENDS, PAUSE_FIRST_S, PAUSE_MAX_S, Sink


class FakeRun:
    """One run, whose rows go to the server that made it."""

    def __init__(self, server: "FakeRuns", unit: PlannedUnit) -> None:
        self._server, self._key = server, unit.key
        self._tags = tuple(tags_of(server.plan, unit))
        self.next_row = len(server.rows.setdefault(unit.key, []))

    def send(self, rows: Collection[Any]) -> None:
        self._server.maybe_fail()
        self._server.rows[self._key] += rows
        self.next_row += len(rows)

    def _end(self, outcome: str) -> None:
        self._server.maybe_fail()
        self._server.open_now.discard(self._key)
        rows = self._server.rows[self._key]
        if self._server.loses_rows > 0 and rows:
            self._server.loses_rows -= 1
            rows.pop()
        self._server.ended[self._key] = Arrived(len(rows), outcome, self._tags)

    def finish(self, record: Record) -> None:
        self._end(record["outcome"])

    def fail(self, failure: Failure) -> None:
        self._end("failed")

    def interrupt(self) -> None:
        self._end("interrupted")


class FakeRuns:
    """A server and a client in one."""

    url: str | None = "https://example.org/lab/usweep"

    def __init__(self, plan: Any) -> None:
        self.plan = plan
        self.rows: dict[str, list[Any]] = {}
        self.ended: dict[str, Arrived] = {}
        self.open_now: set[str] = set()
        self.most_open = self.num_questions = self.loses_rows = 0
        self.has_died = False
        self.opened: list[str] = []
        self.error: Exception | None = None

    def maybe_fail(self) -> None:
        if self.error is not None:
            raise self.error

    def open(self, unit: PlannedUnit, known: Arrived | None) -> FakeRun:
        self.maybe_fail()
        self.opened.append(unit.key)
        self.open_now.add(unit.key)
        self.most_open = max(self.most_open, len(self.open_now))
        return FakeRun(self, unit)

    def arrived(self, keys: Collection[str]) -> Mapping[str, Arrived]:
        self.maybe_fail()
        assert len(keys) <= 100
        self.num_questions += 1
        return {key: self.ended[key] for key in keys if key in self.ended}

    def is_dead(self) -> bool:
        return self.has_died

    def close(self) -> None:
        self.open_now.clear()


class Bench:
    """A sink over a made-up ledger."""

    def __init__(self, made_up: MadeUpLedger) -> None:
        self.made_up, self.now = made_up, 0.0
        self.runs = FakeRuns(made_up.plan)

    def sink(self, open_runs: int = 8) -> Sink:
        return Sink(
            self.made_up.ledger,
            self.runs,
            Book(self.made_up.run_folder, "test"),
            Budget(float("inf")),
            open_runs,
            lambda: self.now,
        )

    def turn_until(self, sink: Sink, condition: Callable[[], bool]) -> None:
        for _ in range(500):
            sink.turn()
            if condition():
                return
            time.sleep(0.002)  # the sink's threads have their say
        raise AssertionError(vars(sink.status))

    def run_dry(self, sink: Sink) -> None:
        """Until nothing is left to send."""
        for _ in range(1000):
            if not sink.turn():
                return
            self.now += 1.0
            time.sleep(0.002)
        raise AssertionError(vars(sink.status))


@pytest.fixture
def bench(made_up: MadeUpLedger) -> Bench:
    return Bench(made_up)


def test_all_units_arrive_and_nobody_is_asked_twice(bench: Bench) -> None:
    bench.made_up.finish_all()
    sink = bench.sink()
    bench.run_dry(sink)
    assert (sink.status.confirmed, sink.status.finished) == (7, 7)
    for unit in bench.made_up.plan.units.values():
        assert bench.runs.rows[unit.key] == bench.made_up.rows(unit)
    bench.runs.num_questions = 0
    again = bench.sink()
    bench.run_dry(again)
    assert again.status.confirmed == 7 and bench.runs.num_questions == 0


def test_what_the_server_has_already_is_not_opened(bench: Bench) -> None:
    bench.made_up.finish_all()
    bench.run_dry(bench.sink())
    bench.runs.opened.clear()
    fresh = Sink(
        bench.made_up.ledger, bench.runs, Book(bench.made_up.run_folder, "lost"),
        Budget(float("inf")), 8, lambda: bench.now,
    )  # fmt: skip
    bench.run_dry(fresh)
    assert fresh.status.confirmed == 7 and bench.runs.opened == []


def test_rows_that_did_not_arrive_are_sent_again_and_then_given_up(bench: Bench) -> None:
    (original,) = bench.made_up.units("original")
    bench.made_up.finish(original)
    bench.runs.loses_rows = MAX_SENDS - 1
    sink = bench.sink()
    bench.run_dry(sink)
    assert sink.status.confirmed == 1
    assert bench.runs.rows[original.key] == bench.made_up.rows(original)
    scratch, _ = bench.made_up.units("scratch")
    bench.made_up.finish(scratch)
    bench.runs.loses_rows = MAX_SENDS
    bench.run_dry(sink)
    assert (sink.status.confirmed, sink.status.given_up) == (1, 1)


def test_only_so_many_runs_are_open_at_a_time_and_all_units_are_sent(bench: Bench) -> None:
    sink = bench.sink(open_runs=2)
    units = [*bench.made_up.units("scratch"), *bench.made_up.units("two_stage")]
    works = [bench.made_up.computing(unit) for unit in units]
    for unit, work in zip(units, works, strict=True):
        under_way = work.__enter__()
        under_way.train("scratch" if unit.kind == "scratch" else "neutralized", 2)
    bench.turn_until(sink, lambda: len(bench.runs.open_now) == 2)
    for _ in range(20):
        sink.turn()
    assert bench.runs.most_open == 2
    for work in works:
        work.__exit__(None, None, None)
    bench.run_dry(sink)
    assert sink.status.confirmed == len(units)


def test_a_network_that_is_away_is_tried_ever_more_seldom(bench: Bench) -> None:
    bench.made_up.finish_all()
    sink = bench.sink()
    bench.runs.error = Unreachable("no route to host")
    pauses = []
    for _ in range(8):
        before = sink.paused_until
        bench.turn_until(sink, lambda before=before: sink.paused_until > before)
        pauses.append(sink.paused_until - bench.now)
        bench.now = sink.paused_until
    assert pauses[:3] == [PAUSE_FIRST_S, 2 * PAUSE_FIRST_S, 4 * PAUSE_FIRST_S]
    assert pauses[-1] == PAUSE_MAX_S
    assert (sink.status.state, sink.status.problem) == ("waiting", "no route to host")
    bench.runs.error = None
    bench.run_dry(sink)
    assert (sink.status.state, sink.status.problem) == ("sending", "")
    assert sink.status.confirmed == 7


def test_a_refused_key_is_not_tried_again_at_once(bench: Bench) -> None:
    bench.made_up.finish_all()
    sink = bench.sink()
    bench.runs.error = Refused("error 401")
    bench.turn_until(sink, lambda: sink.status.state == "refused")
    assert sink.paused_until == PAUSE_MAX_S


def test_one_run_that_the_server_will_not_have_stops_no_other(bench: Bench) -> None:
    bench.made_up.finish_all()
    sink = bench.sink()
    real = bench.runs.open
    (original,) = bench.made_up.units("original")

    def refuse_one(unit: PlannedUnit, known: Arrived | None) -> FakeRun:
        if unit.key == original.key:
            raise RunRefused("it was deleted there")
        return real(unit, known)

    bench.runs.open = refuse_one
    bench.run_dry(sink)
    assert (sink.status.confirmed, sink.status.given_up) == (6, 1)


def test_a_client_that_died_ends_this_sink_and_the_next_goes_on_where_the_server_is(
    bench: Bench,
) -> None:
    (original,) = bench.made_up.units("original")
    with bench.made_up.computing(original) as under_way:
        for _ in range(2):
            sink = bench.sink()
            under_way.train("original", 3)
            num_rows = under_way.num_rows
            bench.turn_until(
                sink, lambda wanted=num_rows: len(bench.runs.rows.get(original.key, [])) == wanted
            )
            under_way.train("original", 2)
            bench.runs.error = ClientDied("gone")
            with pytest.raises(ClientDied):
                bench.turn_until(sink, lambda: False)
            bench.runs.error = None
            bench.runs.open_now.clear()
    sink = bench.sink()
    bench.run_dry(sink)
    assert bench.runs.rows[original.key] == bench.made_up.rows(original)


def test_a_client_that_is_gone_is_noticed_though_nobody_calls_it(bench: Bench) -> None:
    sink = bench.sink()
    sink.turn()
    bench.runs.has_died = True
    with pytest.raises(ClientDied):
        sink.turn()


def test_a_unit_that_starts_over_sends_no_row_twice(bench: Bench) -> None:
    sink = bench.sink()
    (original,) = bench.made_up.units("original")
    with bench.made_up.computing(original) as under_way:
        under_way.train("original", 5)
        bench.turn_until(sink, lambda: len(bench.runs.rows.get(original.key, [])) == 5)
        # Back to a checkpoint after two epochs, and on to eight.
        lines = (under_way.folder / METRICS).read_text().splitlines(keepends=True)
        (under_way.folder / METRICS).write_text("".join(lines[:2]))
        under_way._epochs["original"], under_way.num_rows = 2, 2
        for _ in range(10):
            sink.turn()
        under_way.train("original", 6)
    bench.run_dry(sink)
    rows = bench.runs.rows[original.key]
    assert [row["original/epoch"] for row in rows] == list(range(1, 9))


def test_a_failed_unit_is_shown_and_replaced_by_a_later_success(bench: Bench) -> None:
    (original,) = bench.made_up.units("original")
    bench.made_up.fail(original, "no luck")
    sink = bench.sink()
    bench.run_dry(sink)
    assert bench.runs.ended[original.key].outcome == "failed"
    bench.made_up.finish(original)
    bench.run_dry(sink)
    assert bench.runs.ended[original.key].outcome == "done"
    assert sink.status.confirmed == 1


def test_a_damaged_history_is_named_and_stops_no_other(bench: Bench) -> None:
    bench.made_up.finish_all()
    (original,) = bench.made_up.units("original")
    path = bench.made_up.ledger.folder(original.key) / METRICS
    path.write_text(path.read_text().replace("loss", "lass"))
    sink = bench.sink()
    bench.run_dry(sink)
    assert sink.status.confirmed == 6 and sink.status.given_up == 1
    assert str(path) in sink.status.problem
    assert original.key not in bench.runs.rows


def test_a_record_that_lacks_something_is_named_and_stops_no_other(bench: Bench) -> None:
    bench.made_up.finish_all()
    (original,) = bench.made_up.units("original")
    record = bench.made_up.ledger.record(original.key)
    del record["outcome"]
    bench.made_up.store.write_record(bench.made_up.ledger.folder(original.key), record)
    sink = bench.sink()
    bench.run_dry(sink)
    assert (sink.status.confirmed, sink.status.given_up) == (6, 1)
    assert sink.status.problem == "original digits seed 0: KeyError 'outcome'"


def test_a_damaged_unit_that_was_sent_before_stops_no_other_of_its_question(bench: Bench) -> None:
    bench.made_up.finish_all()
    bench.run_dry(bench.sink())
    (original,) = bench.made_up.units("original")
    (bench.made_up.ledger.folder(original.key) / "record.json").write_text("{")
    fresh = Sink(
        bench.made_up.ledger, bench.runs, Book(bench.made_up.run_folder, "lost"),
        Budget(float("inf")), 8, lambda: bench.now,
    )  # fmt: skip
    bench.run_dry(fresh)
    assert (fresh.status.confirmed, fresh.status.given_up) == (6, 1)


def test_units_under_way_are_marked_at_the_end(bench: Bench) -> None:
    sink = bench.sink()
    (original,) = bench.made_up.units("original")
    with bench.made_up.computing(original) as under_way:
        under_way.train("original", 3)
        bench.turn_until(sink, lambda: len(bench.runs.rows.get(original.key, [])) == 3)
        sink.is_ending = True
        bench.run_dry(sink)
        sink.end()
    assert bench.runs.ended[original.key].outcome == "interrupted"
    assert sink.status.state == "ended"


def test_a_budget_lets_so_many_through_a_minute() -> None:
    now = [0.0]

    def sleep(seconds: float) -> None:
        now[0] += seconds

    budget, when = Budget(60, lambda: now[0], sleep), []
    for _ in range(100):
        budget.take(3)
        when += [now[0]] * 3
    assert max(sum(t <= other < t + 60 for other in when) for t in when) <= 60
    assert now[0] == pytest.approx(294 / 0.9)
    budget.spend(60)
    budget.take(0)
    assert now[0] == pytest.approx(354 / 0.9)
