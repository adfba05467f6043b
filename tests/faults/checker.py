"""The invariants of a fault run, from what clients hold and what files and pages show.

Nothing of the server or of the client library is imported here.
"""

from __future__ import annotations

import json
import sqlite3
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from typing import Any

from evidence import LEDGER, Witness, ending
from frames import Json
from kept import Request, kept
from runs import Run, Runs
from vector_server import ServerProcess

Booking = tuple[str, str | None, str, int]
"""Key, payer (None: paid in), receiver, cents."""
_MAY_HAVE_RUN = {"cancelled", "interrupted", "timed_out"}
_USUAL_ERRORS = ("the store is unavailable", "the lease could not be raised in time")


def requests_of(witnesses: list[Witness]) -> dict[str, tuple[Json, Json | None]]:
    """All that was accepted, by key: the request and its outcome (None: it went lost with the
    connection that had said ``bye`` early)."""
    return {
        f"{witness.session}:{seq}": (request, witness.outcomes.get(seq))
        for witness in witnesses
        for seq, request in witness.requests.items()
        if seq <= max(witness.told, (witness.receipt or {}).get("accepted", 0))
    }


def check_witnesses(witnesses: list[Witness]) -> Iterator[str]:
    """Each client has one outcome for each request, and a receipt that says so."""
    for witness in witnesses:
        yield from witness.trouble
        if witness.early:
            continue
        if witness.told != witness.held:
            yield f"{witness.name}: told {witness.told} accepted, holds {witness.held} outcomes"
        if (witness.receipt is None) is not witness.left:
            yield f"{witness.name}: left {witness.left}, its receipt is {witness.receipt}"
        for seq, outcome in witness.outcomes.items():
            yield from _fits(witness, witness.requests[seq], outcome)


def _fits(witness: Witness, request: Json, outcome: Json) -> Iterator[str]:
    """Whether an outcome is one that its request can have."""
    code = outcome.get("code")
    allowed = {None, "cancelled", "insufficient_funds", "interrupted", "handler_failed"}
    if request["method"] not in LEDGER:
        allowed -= {"insufficient_funds", "handler_failed"}
    if code not in allowed:
        yield f"{witness.name}: {request} ended as {outcome}"


def check_interrupts(
    witnesses: list[Witness], kills: int, max_interrupts: int = 3
) -> Iterator[str]:
    """``interrupted`` is what a method asked for that must not run twice, or the end of many."""
    for request, outcome in requests_of(witnesses).values():
        if outcome is None or outcome.get("code") != "interrupted":
            continue
        once = request["method"] == "roll_once"
        if kills < (1 if once else max_interrupts):
            yield f"interrupted after {kills} kills: {request}"


def check_ledger(file: Path, witnesses: list[Witness]) -> Iterator[str]:
    """Money is conserved, and each request that was done is booked once, as it was answered."""
    with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as db:
        balances = dict(db.execute("SELECT name, balance FROM accounts"))
        bookings = db.execute('SELECT key, "from", "to", amount FROM bookings').fetchall()
        answers = {
            key: json.loads(result) for key, result in db.execute("SELECT key, result FROM done")
        }
    yield from check_books(balances, bookings, answers, witnesses)


def check_books(
    balances: dict[str, int],
    bookings: list[Booking],
    answers: dict[str, Any],
    witnesses: list[Witness],
) -> Iterator[str]:
    """The same of any books: balances by name, bookings, and by key what was answered."""
    expected: Counter[str] = Counter()
    deposits = 0
    for _, source, to, amount in bookings:
        expected[to] += amount
        if source is None:
            deposits += amount
        else:
            expected[source] -= amount
    if balances != dict(expected):
        yield "the balances are not what the bookings add up to"
    if sum(balances.values()) != deposits:
        yield f"{deposits} cents were paid in, there are {sum(balances.values())}"
    booked = Counter(key for key, *_ in bookings)
    yield from (f"{key} is booked {n} times" for key, n in booked.items() if n > 1)
    yield from _check_bookings(bookings, answers, witnesses)


def _check_bookings(
    bookings: list[Booking],
    answers: dict[str, Any],
    witnesses: list[Witness],
) -> Iterator[str]:
    accepted = requests_of(witnesses)
    booked = {key: amount for key, _, _, amount in bookings}
    if booked.keys() != answers.keys():
        yield f"booked, not answered or the reverse: {booked.keys() ^ answers.keys()}"
    for key, amount in booked.items():
        request, outcome = accepted.get(key, (None, None))
        if request is None or request["params"]["amount"] != amount:
            yield f"{key}: {amount} cents are booked, asked for by {request}"
        elif outcome is None or outcome.get("code") in _MAY_HAVE_RUN:
            continue
        elif outcome.get("result") != answers[key]:
            yield f"{key}: the ledger answered {answers[key]}, the client was told {outcome}"
    for key, (request, outcome) in accepted.items():
        done = outcome is not None and outcome["type"] == "result"
        if request["method"] in LEDGER and done and key not in booked:
            yield f"{key}: told {outcome}, but it is not booked"


def check_runs(runs: Runs, witnesses: list[Witness], restarts: int) -> Iterator[str]:
    """Sessions ran in order; what was told is what the last run returned; nothing ran that was
    cancelled before, or twice where it must not.

    Of those that are :attr:`Runs.late` the order is nobody's to keep: they were on their way
    to the handler's first line when their process was stopped.
    """
    accepted = requests_of(witnesses)
    late = runs.late
    by_session: dict[str, list[Run]] = defaultdict(list)
    by_key: dict[str, list[Run]] = defaultdict(list)
    for run in runs.read():
        by_session[run.session].append(run)
        by_key[run.key].append(run)
    for session, told in by_session.items():
        for before, after in pairwise(run for run in told if run not in late):
            if (before.seq, before.attempt) > (after.seq, after.attempt):
                yield f"{session}: {before} ran before {after}"
    for key, told in by_key.items():
        request, outcome = accepted.get(key, (None, None))
        if request is None:
            yield f"{key} ran, but was never accepted"
            continue
        most = {"roll_once": 1, "roll_again": 2 * (1 + restarts)}.get(
            request["method"], 1 + restarts
        )
        if len(told) > most:
            yield f"{key} ran {len(told)} times with {restarts} restarts: {request}"
        last = [run for run in told if run not in late][-1:]
        returned = {run.value for run in (*last, *late.intersection(told))}
        if outcome is not None and ending(outcome) == "done" and outcome["result"] not in returned:
            yield f"{key}: told {outcome}, its runs returned {told}"
    for key, (request, outcome) in accepted.items():
        rolled = request["method"].startswith("roll") and outcome is not None
        if rolled and outcome["type"] == "result" and key not in by_key:
            yield f"{key}: told {outcome}, but it never ran"
    for run in runs.begun_after_stop():
        # A thread can't be stopped, nor on its way to the handler's first line.
        thread = run.key in accepted and accepted[run.key][0]["method"] == "roll_thread"
        if run.key in accepted and not thread and run not in late:
            yield f"{run} was begun after its cancel was answered"


def check_journal(server: ServerProcess, witnesses: list[Witness]) -> Iterator[str]:
    """At any time, also right after a crash: the database has all that clients were told."""
    sessions = {session.id: session for session in kept(server).sessions()}
    rows: dict[str, list[Request]] = defaultdict(list)
    for row in kept(server).requests():
        rows[row.session].append(row)
    for witness in witnesses:
        if not witness.told:
            continue
        session = sessions.get(witness.session)
        if session is None or session.state != "live":
            if session is None or session.state != "ended" or not witness.ending:
                yield f"{witness.name}: told {witness.told}, kept is {session}"
            continue
        accepted, settled, acked = session.numbers
        if accepted < witness.told or settled < witness.held or acked > witness.acked:
            yield (
                f"{witness.name}: told {witness.told}, held {witness.held},"
                f" acknowledged {witness.acked}; kept is {session}"
            )
        yield from _check_rows(rows[session.id], acked, witness)


def _check_rows(rows: list[Request], acked: int, witness: Witness) -> Iterator[str]:
    """Outcomes that are held are kept in the same words."""
    if [row.seq for row in rows] != list(range(acked + 1, acked + 1 + len(rows))):
        yield f"{witness.name}: rows {[row.seq for row in rows]} after {acked}"
    for row in rows:
        held = witness.outcomes.get(row.seq)
        if held is not None and (held["id"], ending(held)) != (row.id, row.ending):
            yield f"{witness.name}: holds {held}, kept is {row}"


def check_totals(server: ServerProcess, witnesses: list[Witness]) -> Iterator[str]:
    """At the end: the sessions are those of the clients, with the clients' numbers."""
    sessions = {session.id: session for session in kept(server).sessions()}
    if sessions.keys() != {witness.session for witness in witnesses}:
        yield f"sessions of nobody, or lost: {sessions.keys() ^ {w.session for w in witnesses}}"
    for witness in witnesses:
        session = sessions.get(witness.session)
        if session is None:
            continue
        state, node, receipt = session.state, session.node, session.receipt
        if (state, node) != (("live" if witness.left else "ended"), None):
            yield f"{witness.name}: its session is {state} at {node}"
        if witness.left:
            if receipt is None:
                yield f"{witness.name}: left, and no receipt is kept"
            else:
                witness.hear_receipt(receipt)
                yield from witness.trouble
        elif witness.receipt is not None and receipt != witness.receipt:
            yield f"{witness.name}: got {witness.receipt}, kept is {receipt}"


def check_metrics(metrics: dict[str, float]) -> Iterator[str]:
    """Nothing is left, and no promise was broken."""
    for name in ("sessions", "queue_depth", "connections", "violations_total"):
        if metrics[f"inorder_{name}"]:
            yield f"in the end {name} is {metrics[f'inorder_{name}']}"


def check_log(text: str) -> Iterator[str]:
    """No error but that the store was away; a run's last word says that nothing is left."""
    for line in text.splitlines():
        if not line.startswith("{"):
            if line.startswith("Traceback"):
                yield f"a traceback in the output: {text[-2000:]}"
            continue
        try:
            record = json.loads(line)
        except ValueError:
            continue  # cut off by a kill, or by a full disk
        if record["level"] == "ERROR" and not record["message"].startswith(_USUAL_ERRORS):
            yield f"logged: {line[:500]}"
