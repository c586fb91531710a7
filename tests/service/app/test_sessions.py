"""Sessions: whose they are, how long they live, and what guessing gets."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest

from service.app.sessions import LIFETIME_MS, MAX_LIFETIME_MS, Sessions
from service.domain.tenants import Account, Caller
from service.errors import LoginFailed, Overloaded, Unauthenticated
from service.store.engine import Store
from tests.support.schema import migrated

RIGHT = hashlib.sha512(b"right").hexdigest()
WRONG = hashlib.sha512(b"wrong").hexdigest()
ALICE = Account("alice", RIGHT, Caller("alice", "red", "operator"))
pytestmark = pytest.mark.asyncio


@dataclass
class World:
    store: Store
    now: int = 1_000_000

    def sessions(self, *accounts: Account) -> Sessions:
        return Sessions(self.store, accounts or (ALICE,), lambda: self.now)


@asynccontextmanager
async def world() -> AsyncIterator[World]:
    store = Store("sqlite://")
    migrated(store.engine)
    try:
        yield World(store)
    finally:
        store.close()


async def test_a_session_is_its_accounts_caller() -> None:
    async with world() as w:
        sessions = w.sessions()
        session = await sessions.log_in("alice", RIGHT.upper() + " ", "peer")
        assert await sessions.caller(session.uuid) == ALICE.caller
        assert session.expires_at == w.now + LIFETIME_MS


async def test_a_session_lives_two_hours_after_its_last_use() -> None:
    async with world() as w:
        sessions = w.sessions()
        uuid = (await sessions.log_in("alice", RIGHT, "peer")).uuid
        for _ in range(3):
            w.now += LIFETIME_MS - 60_000
            await sessions.caller(uuid)
        w.now += LIFETIME_MS
        with pytest.raises(Unauthenticated):
            await sessions.caller(uuid)


async def test_asking_whether_a_session_is_valid_does_not_prolong_it() -> None:
    async with world() as w:
        sessions = w.sessions()
        uuid = (await sessions.log_in("alice", RIGHT, "peer")).uuid
        w.now += LIFETIME_MS - 1
        assert await sessions.is_valid(uuid)
        w.now += 1
        assert not await sessions.is_valid(uuid)


async def test_a_renewal_sets_the_end_and_has_an_upper_bound() -> None:
    async with world() as w:
        sessions = w.sessions()
        uuid = (await sessions.log_in("alice", RIGHT, "peer")).uuid
        assert (await sessions.renew(uuid, 5000)).expires_at == w.now + 5000
        assert (await sessions.renew(uuid, 1 << 60)).expires_at == w.now + MAX_LIFETIME_MS
        with pytest.raises(Unauthenticated):
            await sessions.renew("0" * 32)


async def test_a_session_that_was_ended_is_unknown_and_ending_it_again_is_no_error() -> None:
    async with world() as w:
        sessions = w.sessions()
        uuid = (await sessions.log_in("alice", RIGHT, "peer")).uuid
        await sessions.log_out(uuid)
        await sessions.log_out(uuid)
        with pytest.raises(Unauthenticated):
            await sessions.caller(uuid)


async def test_an_account_taken_out_of_the_configuration_has_no_sessions() -> None:
    async with world() as w:
        uuid = (await w.sessions().log_in("alice", RIGHT, "peer")).uuid
        with pytest.raises(Unauthenticated):
            await w.sessions(Account("bob", RIGHT, Caller("bob"))).caller(uuid)


async def test_a_session_outlives_the_process() -> None:
    async with world() as w:
        uuid = (await w.sessions().log_in("alice", RIGHT, "peer")).uuid
        assert await w.sessions().caller(uuid) == ALICE.caller


async def test_the_database_does_not_hold_the_sessions_uuid() -> None:
    async with world() as w:
        uuid = (await w.sessions().log_in("alice", RIGHT, "peer")).uuid
        rows = await w.store.read(lambda c: str(c.exec_driver_sql("SELECT * FROM sessions").all()))
        assert uuid not in rows


async def test_expired_sessions_are_forgotten() -> None:
    async with world() as w:
        sessions = w.sessions()
        await sessions.log_in("alice", RIGHT, "peer")
        w.now += LIFETIME_MS
        await sessions.log_in("alice", RIGHT, "peer")
        assert await w.store.read(lambda c: c.exec_driver_sql("SELECT count(*) FROM sessions").scalar_one()) == 1


@pytest.mark.parametrize(
    ("name", "password"), [("alice", WRONG), ("nobody", RIGHT), ("nobody", "0" * 128), ("alice", "é")]
)
async def test_a_wrong_name_or_password_fails_alike(name: str, password: str) -> None:
    async with world() as w:
        with pytest.raises(LoginFailed, match="wrong account name or password"):
            await w.sessions().log_in(name, password, "peer")


async def test_a_peer_that_guesses_has_to_wait_and_others_do_not() -> None:
    async with world() as w:
        sessions = w.sessions()
        for _ in range(10):
            with pytest.raises(LoginFailed):
                await sessions.log_in("alice", WRONG, "mallory")
        with pytest.raises(Overloaded):
            await sessions.log_in("alice", RIGHT, "mallory")
        await sessions.log_in("alice", RIGHT, "elsewhere")
        w.now += 60_000
        await sessions.log_in("alice", RIGHT, "mallory")
