"""Rows of jobs and sessions, on both kinds of database."""

from __future__ import annotations

import pytest

from service.domain.tenants import Caller
from service.errors import AlreadyExists
from service.store import jobs, sessions
from service.store.jobs import Job, JobState
from service.store.sessions import StoredSession
from tests.support.database import Database

CALLER = Caller("alice", "red", "operator")


def job(number: int = 1, webhook: str = "") -> Job:
    return Job(f"{number:032x}", "op", CALLER, "what", 10 + number, webhook=webhook, webhook_due=bool(webhook))


def test_a_job_is_found_as_it_was_stored_and_its_uuid_is_taken(db: Database) -> None:
    db.write(lambda c: jobs.create(c, job(webhook="http://hook/"), "one", 100))
    assert db.read(lambda c: jobs.find(c, job().uuid)) == job(webhook="http://hook/")
    assert db.read(lambda c: jobs.find(c, "f" * 32)) is None
    with pytest.raises(AlreadyExists):
        db.write(lambda c: jobs.create(c, job(), "two", 100))
    assert db.read(lambda c: jobs.find(c, job().uuid)) == job(webhook="http://hook/")


def test_a_job_ends_once_and_forgets_what_was_asked(db: Database) -> None:
    db.write(lambda c: jobs.create(c, job(), "one", 100))
    ended = db.write(lambda c: jobs.end(c, job().uuid, JobState.SUCCEEDED, "done", 50))
    assert ended is not None
    assert (ended.state, ended.outcome, ended.ended_at, ended.arguments) == (JobState.SUCCEEDED, "done", 50, "")
    assert db.write(lambda c: jobs.end(c, job().uuid, JobState.FAILED, "no", 60)) is None
    assert db.read(lambda c: jobs.find(c, job().uuid)) == ended


def test_only_unfinished_jobs_without_a_lease_are_taken_over_the_oldest_first(db: Database) -> None:
    for number, until in ((1, 100), (2, 50), (3, 50), (4, 50)):
        db.write(jobs.create, job(number), "one", until)
    db.write(lambda c: jobs.end(c, job(4).uuid, JobState.FAILED, "", 40))
    assert [j.uuid for j in db.write(lambda c: jobs.take_over(c, "two", 60, 160, 1))] == [job(2).uuid]
    assert [j.uuid for j in db.write(lambda c: jobs.take_over(c, "two", 60, 160, 9))] == [job(3).uuid]
    assert db.write(lambda c: jobs.take_over(c, "three", 60, 160, 9)) == ()


def test_a_renewed_lease_is_kept_and_a_released_one_is_free_at_once(db: Database) -> None:
    db.write(lambda c: jobs.create(c, job(), "one", 50))
    db.write(lambda c: jobs.renew(c, "one", 200))
    assert db.write(lambda c: jobs.take_over(c, "two", 199, 300, 9)) == ()
    db.write(lambda c: jobs.release(c, "one"))
    assert len(db.write(lambda c: jobs.take_over(c, "two", 1, 300, 9))) == 1


def test_an_ended_job_is_worked_on_until_its_webhook_is_told(db: Database) -> None:
    db.write(lambda c: jobs.create(c, job(webhook="http://hook/"), "one", 50))
    db.write(lambda c: jobs.end(c, job().uuid, JobState.SUCCEEDED, "done", 40))
    (taken,) = db.write(lambda c: jobs.take_over(c, "two", 60, 100, 9))
    assert (taken.state, taken.webhook_due) == (JobState.SUCCEEDED, True)
    db.write(lambda c: jobs.delivered(c, job().uuid))
    assert db.write(lambda c: jobs.take_over(c, "three", 500, 600, 9)) == ()


def test_old_ended_jobs_are_forgotten_and_running_ones_never(db: Database) -> None:
    for number in (1, 2, 3):
        db.write(jobs.create, job(number), "one", 50)
    db.write(lambda c: jobs.end(c, job(1).uuid, JobState.SUCCEEDED, "", 100))
    db.write(lambda c: jobs.end(c, job(2).uuid, JobState.SUCCEEDED, "", 101))
    assert db.write(lambda c: jobs.remove_ended(c, 101)) == 1
    assert [db.read(jobs.find, job(n).uuid) is None for n in (1, 2, 3)] == [True, False, False]


def test_a_session_is_valid_until_its_end_and_can_be_prolonged_and_ended(db: Database) -> None:
    db.write(lambda c: sessions.create(c, "d" * 64, StoredSession("alice", 1, 100)))
    assert db.read(lambda c: sessions.find(c, "d" * 64, 99)) == StoredSession("alice", 1, 100)
    assert db.read(lambda c: sessions.find(c, "d" * 64, 100)) is None
    db.write(lambda c: sessions.extend(c, "d" * 64, 200))
    assert db.read(lambda c: sessions.find(c, "d" * 64, 100)) is not None
    assert db.write(lambda c: sessions.remove_expired(c, 199)) == 0
    db.write(lambda c: sessions.remove(c, "d" * 64))
    db.write(lambda c: sessions.extend(c, "d" * 64, 300))
    assert db.read(lambda c: sessions.find(c, "d" * 64, 100)) is None
