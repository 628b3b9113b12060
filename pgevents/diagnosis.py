"""What is wrong with tables, indexes and server, and what to do about it: for `doctor` and the browser."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timezone

from attrs import frozen

from pgevents.client import EventClient
from pgevents.errors import PgEventsError
from pgevents.store.blockers import described, waiting_backends
from pgevents.store.checks import find_installed, not_guarded, not_made, sequence_fault, troubles
from pgevents.store.layout import TableSpec
from pgevents.store.ordering import holder_text, horizon_of
from pgevents.store.ownership import found_indexes, index_fault
from pgevents.subscriptions import check, kept_views
from pgevents.terminal import printable

__all__ = ["Finding", "diagnose"]

SERVER_SQL = """\
SELECT current_setting('server_version'), current_setting('server_version_num')::int, pg_is_in_recovery(),
    current_setting('default_transaction_isolation'), current_setting('default_transaction_read_only'),
    current_setting('fsync'), current_setting('autovacuum'),
    current_setting('max_locks_per_transaction')::int
        * (current_setting('max_connections')::int + current_setting('max_prepared_transactions')::int),
    (SELECT count(*) FROM pg_locks),
    (SELECT count(*) FROM pg_prepared_xacts WHERE database = current_database())
"""
INDEXES_SQL = """\
SELECT i.relname, x.indisvalid, coalesce(s.idx_scan, 0), pg_relation_size(i.oid), pg_get_indexdef(i.oid)
FROM pg_index AS x
JOIN pg_class AS i ON i.oid = x.indexrelid
LEFT JOIN pg_stat_user_indexes AS s ON s.indexrelid = i.oid
WHERE x.indrelid = to_regclass(%s)
"""
TABLE_SQL = """\
SELECT n_live_tup, n_dead_tup, last_analyze, last_autoanalyze
FROM pg_stat_user_tables WHERE relid = to_regclass(%s)
"""
OLD_SNAPSHOTS_SQL = """\
SELECT pid, application_name, extract(epoch FROM clock_timestamp() - xact_start)::float8
FROM pg_stat_activity
WHERE backend_xmin IS NOT NULL AND datname = current_database() AND pid <> pg_backend_pid()
    AND xact_start < clock_timestamp() - %s * interval '1 s'
"""
FEW_LOCKS = 5_000
BIG = 100_000
LONG = 10.0


@frozen
class Finding:
    """What the doctor found.

    Attributes:
        level: "ok", "note" or "fault".
        what: What it is.
        advice: What to do; empty if nothing.
    """

    level: str
    what: str
    advice: str = ""


def diagnose(client: EventClient) -> Iterator[Finding]:
    """Look at everything; it reads only.

    Args:
        client: Whose tables, and on which server.
    """
    yield from _installed(client)
    yield from _server(client)
    yield from _horizon(client)
    yield from _waiting(client)
    yield from _following(client)
    yield from _kept(client)
    yield from _pooler(client)
    for model in (client.events, client.projections):
        yield from _indexes(client, model.pgevents_spec)
        yield from _upkeep(client, model.pgevents_spec)


def _installed(client: EventClient) -> Iterator[Finding]:
    spec, execute = client.events.pgevents_spec, client.session.execute
    found = find_installed(execute, spec)
    reason = not_made(found, spec)
    if reason is None:
        yield Finding("ok", f"{spec.qualified()} and its functions are of this version of pgevents")
    else:
        yield Finding("fault", reason, "pgevents init brings tables and functions up to date")
    reason = not_guarded(found, spec)
    if reason is None:
        yield Finding("ok", "the log is guarded against changes")
    else:
        yield Finding("fault", reason, "pgevents init restores it")
    for fault in (*troubles(found, spec), sequence_fault(execute, spec)):
        if fault is not None:
            yield Finding("fault", fault)
    if found.other_triggers:
        triggers = ", ".join(found.other_triggers)
        yield Finding("note", f"each save runs triggers of others: {triggers}",
                      "they must not write to the log, and should be quick")  # fmt: skip


def _server(client: EventClient) -> Iterator[Finding]:
    row = client.session.execute(SERVER_SQL, None).fetchone()
    version, number, is_standby, isolation, read_only, fsync, autovacuum, lock_room, locks, prepared = row
    if number < 140_000:
        yield Finding("fault", f"PostgreSQL {version}", "pgevents needs 14 or later")
    else:
        yield Finding("ok", f"PostgreSQL {version}")
    if is_standby:
        yield Finding(
            "fault", "this server is a standby", "it answers display reads only; save on the primary"
        )
    if isolation != "read committed":
        yield Finding("fault", f"transactions are {isolation} by default, and saves need read committed",
                      "ALTER DATABASE ... SET default_transaction_isolation = 'read committed'")  # fmt: skip
    if read_only == "on":
        yield Finding("fault", "transactions are READ ONLY by default, so nothing can be saved",
                      "ALTER DATABASE ... or ALTER ROLE ... SET default_transaction_read_only = "
                      "off")  # fmt: skip
    if fsync == "off":
        yield Finding(
            "fault", "fsync is off: a power cut can destroy the database", "set fsync = on, except for tests"
        )
    if autovacuum == "off":
        yield Finding(
            "note", "autovacuum is off", "set autovacuum = on, or see to VACUUM and ANALYZE yourself"
        )
    room = f"room for {lock_room:,} locks, of which {locks:,} are taken"
    if lock_room < FEW_LOCKS:
        yield Finding(
            "note", room, "raise max_locks_per_transaction (a restart): one transaction may take some 64"
        )
    else:
        yield Finding("ok", room)
    if prepared:
        yield Finding(
            "note", f"{prepared} prepared transactions are open", "COMMIT PREPARED or ROLLBACK PREPARED them"
        )


def _horizon(client: EventClient) -> Iterator[Finding]:
    horizon = horizon_of(client.session.execute, client.events.pgevents_spec)
    held = False
    for holder in horizon.holders:
        age = (datetime.now(timezone.utc) - holder.since).total_seconds() if holder.since else None
        if age is None or age > LONG:
            held = True
            who = holder_text(holder)
            since = f"for {age:,.0f} s" if age is not None else "since nobody knows when"
            advice = f"SELECT pg_terminate_backend({holder.pid})" if holder.pid else "ROLLBACK PREPARED it"
            yield Finding(
                "note", f"{who} holds the horizon at {holder.published:,} {since}: followers wait", advice
            )
    if not held:
        yield Finding("ok", f"the horizon is free: final up to id {horizon.id:,} of {horizon.last_issued:,}")


def _waiting(client: EventClient) -> Iterator[Finding]:
    waiting = waiting_backends(client.session.execute)
    for session in waiting:
        since = "" if session.seconds is None else f" for {session.seconds:,.0f} s"
        advice = " or ".join(
            f"SELECT pg_terminate_backend({held.pid})" for held in session.blockers if held.pid
        )
        yield Finding(
            "note",
            f"backend {session.pid} {session.application} waits{since} for {described(session.blockers)}",
            advice,
        )
    if not waiting:
        yield Finding("ok", "nobody waits for a lock")


def _following(client: EventClient) -> Iterator[Finding]:
    """What subscriptions suffer from: their own troubles, and snapshots that keep old rows alive."""
    try:
        problems = check(client)
    except PgEventsError:  # said above: tables or functions are not those of this version
        return
    for problem in problems:
        yield Finding("note", problem, "pgevents subscriptions shows them all")
    if not problems:
        yield Finding("ok", "subscriptions, if there are any, are at work")
    for pid, application, age in client.session.execute(OLD_SNAPSHOTS_SQL, [LONG * 60]).fetchall():
        who = printable(f"backend {pid} {application}".strip())
        yield Finding(
            "note",
            f"{who} keeps a snapshot of {age:,.0f} s: the places of subscriptions grow meanwhile",
            f"end its transaction: SELECT pg_terminate_backend({pid})",
        )


def _kept(client: EventClient) -> Iterator[Finding]:
    """Kept views that queries cannot rely on yet, and versions that nobody needs any more."""
    try:
        reports = kept_views(client)
    except PgEventsError:  # said above: tables or functions are not those of this version
        return
    whole = {
        (report.type, report.version)
        for report in reports
        if report.complete_at is not None and not report.waiting
    }
    for report in reports:
        name = printable(f"{report.type} version {report.version}")
        if report.complete_at is None and not report.is_reached:
            yield Finding(
                "note",
                f"the views of {name} are not complete: at event {report.position:,} of {report.target:,}",
                f"have a runner keep them, or: pgevents rebuild {printable(report.type)} --app MODULE:NAME",
            )
        if report.waiting:
            yield Finding(
                "note",
                f"{report.waiting:,} views of {name} wait to be folded anew, after an error, a redaction or "
                "a deletion",
                f"pgevents parked list {printable(report.name)!r}; a runner that keeps them folds them",
            )
        if any(kind == report.type and version > report.version for kind, version in whole):
            yield Finding(
                "note",
                f"{name} is kept beside a newer version that is complete",
                "once no program of the old version runs: pgevents rebuild ... --drop-old",
            )
    if reports and all(report.complete_at and not report.waiting for report in reports):
        yield Finding("ok", f"kept views are complete ({len(reports)})")


def _pooler(client: EventClient) -> Iterator[Finding]:
    """Whether something like PgBouncer stands between: its time-outs cannot be seen, nor set from here."""
    (backend,) = client.session.execute("SELECT pg_backend_pid()", None).fetchone()
    if client.session.connection().info.backend_pid != backend:
        yield Finding(
            "note",
            "a pooler such as PgBouncer stands between here and the server; its own time-outs end batches of "
            "subscriptions, whose handlers may think for longer",
            "keep its idle_transaction_timeout, transaction_timeout and query_timeout at 0, or above the "
            "slowest handler: SHOW CONFIG on its console",
        )


def _indexes(client: EventClient, spec: TableSpec) -> Iterator[Finding]:
    rows = {row[0]: row for row in client.session.execute(INDEXES_SQL, [spec.qualified()]).fetchall()}
    live = (client.session.execute(TABLE_SQL, [spec.qualified()]).fetchone() or (0,))[0]
    found = found_indexes(client.session.execute, spec)
    faults, needed = 0, {index.name for index in spec.indexes() if index.field is None}
    for index in spec.indexes():
        fault = index_fault(found.get(index.name), spec, index)
        if index.name not in rows:
            faults += 1
            yield Finding(
                "fault", f"{spec.qualified()} has no index on {index.what}", "pgevents init makes it"
            )
        elif fault is not None:
            faults += 1
            yield Finding("fault", *fault.split(": ", 1))
            del rows[index.name]
    for name, is_valid, scans, size, definition in rows.values():
        if not is_valid:
            faults += 1
            yield Finding("fault", f"index {name} is broken", f"REINDEX INDEX CONCURRENTLY {name}")
        elif not scans and live > BIG and "UNIQUE" not in definition and name not in needed:
            faults += 1
            yield Finding(
                "note",
                f"index {name} ({size / 1e6:,.1f} MB) was never used since statistics began",
                "take it out of data_indexes or additional_indexes if no stream and no query is about it",
            )
    if not faults:
        yield Finding("ok", f"all indexes of {spec.qualified()} are there and sound ({len(rows)})")


def _upkeep(client: EventClient, spec: TableSpec) -> Iterator[Finding]:
    row = client.session.execute(TABLE_SQL, [spec.qualified()]).fetchone()
    if row is None:
        return
    live, dead, analyzed, auto_analyzed = row
    if dead > 1_000 and dead > live // 2:
        yield Finding(
            "note",
            f"{spec.qualified()} is bloated: {dead:,} dead rows beside {live:,}",
            f"VACUUM {spec.qualified()}",
        )
    if live > BIG and not (analyzed or auto_analyzed):
        yield Finding("note", f"{spec.qualified()} was never analyzed", f"ANALYZE {spec.qualified()}")
