"""Rows of login sessions. A session is kept by the digest of its uuid, because the uuid itself is the credential."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection, delete, insert, select, update

from service.store import schema


@dataclass(frozen=True, slots=True)
class StoredSession:
    """Whose session it is, and until when. Times are ms since the epoch."""

    account: str
    created_at: int
    expires_at: int


def create(connection: Connection, digest: str, session: StoredSession) -> None:
    """Insert the session under the digest of its uuid."""
    connection.execute(
        insert(schema.sessions).values(
            digest=digest, account=session.account, created_at=session.created_at, expires_at=session.expires_at
        )
    )


def find(connection: Connection, digest: str, now: int) -> StoredSession | None:
    """The session, or None where there is none that is valid at `now`."""
    row = connection.execute(
        select(schema.sessions).where(schema.sessions.c.digest == digest, schema.sessions.c.expires_at > now)
    ).one_or_none()
    return StoredSession(row.account, row.created_at, row.expires_at) if row is not None else None


def extend(connection: Connection, digest: str, expires_at: int) -> None:
    """Let the session live until `expires_at`; a session that was ended meanwhile stays ended."""
    connection.execute(update(schema.sessions).where(schema.sessions.c.digest == digest).values(expires_at=expires_at))


def remove(connection: Connection, digest: str) -> None:
    """End the session; one that does not exist stays so."""
    connection.execute(delete(schema.sessions).where(schema.sessions.c.digest == digest))


def remove_expired(connection: Connection, now: int) -> int:
    """Forget sessions whose time is over; returns how many."""
    return connection.execute(delete(schema.sessions).where(schema.sessions.c.expires_at <= now)).rowcount
