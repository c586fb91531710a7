"""Rows of jobs: what an API call was accepted to do, who works on it, and how it ended."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from sqlalchemy import Connection, Row, and_, bindparam, delete, exc, insert, or_, select, update

from service.domain.tenants import Caller
from service.errors import AlreadyExists
from service.store import schema
from service.store.codec import decode, encode
from service.store.statement import Statement


class JobState(StrEnum):
    """Where a job stands."""

    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Job:
    """One accepted API call. `arguments` and `outcome` are texts of the face that made it.

    `webhook`: where the outcome is to be told, "" for nowhere; `webhook_due`: it was not told yet. `ended_at`: 0 while
    it runs.
    """

    uuid: str
    operation: str
    caller: Caller
    arguments: str
    created_at: int
    state: JobState = JobState.RUNNING
    outcome: str = ""
    webhook: str = ""
    webhook_due: bool = False
    ended_at: int = 0


def create(connection: Connection, job: Job, owner: str, lease_until: int) -> None:
    """Insert a running job under the lease of who begins with it. Raises AlreadyExists for a uuid that was used."""
    try:
        with connection.begin_nested():
            connection.execute(
                insert(schema.jobs).values(
                    uuid=job.uuid,
                    operation=job.operation,
                    caller=encode(job.caller),
                    arguments=job.arguments,
                    state=job.state.value,
                    webhook=job.webhook,
                    webhook_due=bool(job.webhook),
                    owner=owner,
                    lease_until=lease_until,
                    created_at=job.created_at,
                )
            )
    except exc.IntegrityError as error:
        raise AlreadyExists("job", job.uuid) from error


def find(connection: Connection, uuid: str) -> Job | None:
    """The job, or None."""
    row = connection.execute(select(schema.jobs).where(schema.jobs.c.uuid == uuid)).one_or_none()
    return _job(row) if row is not None else None


def end(connection: Connection, uuid: str, state: JobState, outcome: str, now: int) -> Job | None:
    """Record how a running job ended, and forget its arguments; None where somebody else recorded its end before."""
    row = connection.execute(
        update(schema.jobs)
        .where(schema.jobs.c.uuid == uuid, schema.jobs.c.state == JobState.RUNNING.value)
        .values(state=state.value, outcome=outcome, ended_at=now, arguments="")
        .returning(*schema.jobs.c)
    ).one_or_none()
    return _job(row) if row is not None else None


def delivered(connection: Connection, uuid: str) -> None:
    """The outcome was told to the webhook, or will not be tried any more."""
    connection.execute(update(schema.jobs).where(schema.jobs.c.uuid == uuid).values(webhook_due=False))


def renew(connection: Connection, owner: str, lease_until: int) -> None:
    """Keep all unfinished jobs of `owner` for longer."""
    connection.execute(
        update(schema.jobs).where(_unfinished(), schema.jobs.c.owner == owner).values(lease_until=lease_until)
    )


def release(connection: Connection, owner: str) -> None:
    """End the leases of the unfinished jobs of `owner`: any process may take them over at once."""
    connection.execute(update(schema.jobs).where(_unfinished(), schema.jobs.c.owner == owner).values(lease_until=0))


def are_free(connection: Connection, now: int) -> bool:
    """Whether there are unfinished jobs that nobody works on any more."""
    return bool(_FREE.scalar(connection, {"now": now}))


def take_over(connection: Connection, owner: str, now: int, lease_until: int, limit: int) -> tuple[Job, ...]:
    """Lease up to `limit` unfinished jobs that nobody works on any more, the oldest first."""
    table = schema.jobs
    free = and_(_unfinished(), table.c.lease_until <= now)
    chosen = select(table.c.uuid).where(free).order_by(table.c.created_at).limit(limit)
    taken = []
    for uuid in list(connection.scalars(chosen.with_for_update(skip_locked=True))):
        row = connection.execute(
            update(table)
            .where(table.c.uuid == uuid, free)
            .values(owner=owner, lease_until=lease_until)
            .returning(*table.c)
        ).one_or_none()
        if row is not None:
            taken.append(_job(row))
    return tuple(taken)


def remove_ended(connection: Connection, ended_before: int) -> int:
    """Forget jobs that ended before the given time; returns how many."""
    table = schema.jobs
    old = and_(table.c.state != JobState.RUNNING.value, table.c.ended_at < ended_before)
    return connection.execute(delete(table).where(old)).rowcount


def _unfinished() -> Any:
    return or_(schema.jobs.c.state == JobState.RUNNING.value, schema.jobs.c.webhook_due)


# Each process asks every few seconds.
_FREE = Statement(
    select(select(schema.jobs.c.uuid).where(_unfinished(), schema.jobs.c.lease_until <= bindparam("now")).exists())
)


def _job(row: Row[Any]) -> Job:
    return Job(
        uuid=row.uuid,
        operation=row.operation,
        caller=decode(Caller, row.caller),
        arguments=row.arguments,
        created_at=row.created_at,
        state=JobState(row.state),
        outcome=row.outcome,
        webhook=row.webhook,
        webhook_due=row.webhook_due,
        ended_at=row.ended_at,
    )
