"""A request id stands for one request of one principal and method."""

from __future__ import annotations

from functools import partial

import pytest
from sqlalchemy import Connection

from service.errors import RequestIdReused
from service.store import requests
from tests.support.database import Database, together

GROUP = "a" * 32


def _keep(connection: Connection, body: str = "hash", principal: str = "p", method: str = "Deploy") -> None:
    requests.remember(connection, principal, method, "r-1", body, GROUP, 3, 1)


def test_the_same_request_is_found_again(db: Database) -> None:
    assert db.read(lambda c: requests.find(c, "p", "Deploy", "r-1", "hash")) is None
    db.write(_keep)
    found = db.read(lambda c: requests.find(c, "p", "Deploy", "r-1", "hash"))
    assert found == requests.Remembered(GROUP, 3)


def test_another_body_under_the_same_id_is_refused(db: Database) -> None:
    db.write(_keep)
    with pytest.raises(RequestIdReused):
        db.read(lambda c: requests.find(c, "p", "Deploy", "r-1", "other"))


def test_ids_of_other_principals_and_methods_are_others(db: Database) -> None:
    db.write(_keep)
    assert db.read(lambda c: requests.find(c, "q", "Deploy", "r-1", "other")) is None
    assert db.read(lambda c: requests.find(c, "p", "Delete", "r-1", "other")) is None


def test_of_concurrent_requests_with_one_id_one_acts_and_the_others_find_it(db: Database) -> None:
    """The loser's insert hits the winner's key; looking again, it finds the winner's answer."""
    acted: list[int] = []

    def intent(connection: Connection, number: int) -> str:
        known = requests.find(connection, "p", "Deploy", "r-1", "hash")
        if known is not None:
            return known.group_uuid
        requests.remember(connection, "p", "Deploy", "r-1", "hash", f"{number:032x}", 0, 1)
        acted.append(number)
        return f"{number:032x}"

    answers = together([partial(db.write, partial(intent, number=n)) for n in range(8)])
    assert len(set(answers)) == 1, answers
    assert isinstance(answers[0], str)
