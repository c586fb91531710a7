"""Metrics and the API's description: open to programs of this machine, by role to everybody else."""

from __future__ import annotations

import hashlib
from pathlib import Path

import httpx
import pytest

from service.errors import Unavailable
from service.http.scraping import READERS, ScrapeGuard
from tests.support.whole import config_text, whole

pytestmark = pytest.mark.asyncio


def token(role: str) -> str:
    digest = hashlib.sha256(role.encode()).hexdigest()
    return f'[[tokens]]\nname = "{role}"\nsha256 = "{digest}"\nrole = "{role}"\n'


TOKENS = "".join(token(role) for role in ("scraper", "viewer", "operator", "admin"))
IDENTITY = '[identity]\nanonymous = "nobody"\n'


async def statuses(http: httpx.AsyncClient, path: str, **headers: str) -> dict[str, int]:
    """The status of each role, and of nobody ("")."""
    found = {}
    for role in ("", "scraper", "viewer", "operator", "admin", "wrong"):
        shown = {"Authorization": f"Bearer {role}"} if role else {}
        found[role] = (await http.get(path, headers={**shown, **headers})).status_code
    return found


async def test_where_others_reach_the_listener_each_has_its_readers_and_the_scraper_reads_nothing_else(
    tmp_path: Path,
) -> None:
    text = config_text(extra=IDENTITY + TOKENS).replace('http = "127.0.0.1:0"', 'http = "0.0.0.0:0"\ninsecure = true')
    async with whole(tmp_path, text) as lab:
        port = lab.http_address.rpartition(":")[2]
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=60) as http:
            nobody = {"": 401, "wrong": 401}
            metrics = {**nobody, "scraper": 200, "viewer": 403, "operator": 403, "admin": 200}
            assert await statuses(http, "/metrics") == metrics
            described = {**nobody, "scraper": 403, "viewer": 200, "operator": 200, "admin": 200}
            assert await statuses(http, "/openapi.json") == described
            assert (await http.get("/metrics")).headers["www-authenticate"] == "Bearer"
            assert (await http.get("/healthz")).status_code == 200
            groups = await http.get("/corral/v1/instance-groups", headers={"Authorization": "Bearer scraper"})
            assert groups.status_code == 403


async def test_programs_of_this_machine_read_them_and_what_a_proxy_passes_on_needs_a_role(tmp_path: Path) -> None:
    async with (
        whole(tmp_path, config_text(extra=IDENTITY + TOKENS)) as lab,
        httpx.AsyncClient(base_url=f"http://{lab.http_address}", trust_env=False, timeout=60) as http,
    ):
        for path in READERS:
            assert set((await statuses(http, path)).values()) == {200}
            forwarded = await statuses(http, path, **{"X-Forwarded-For": "198.51.100.7"})
            assert (forwarded[""], forwarded["wrong"], forwarded["admin"]) == (401, 401, 200)


async def test_an_operator_may_ask_for_the_role_on_this_machine_too(tmp_path: Path) -> None:
    async with (
        whole(tmp_path, config_text(extra=f'{IDENTITY}scrape = "role"\n' + TOKENS)) as lab,
        httpx.AsyncClient(base_url=f"http://{lab.http_address}", trust_env=False, timeout=60) as http,
    ):
        found = await statuses(http, "/metrics")
        assert (found[""], found["scraper"]) == (401, 200)


async def test_who_it_is_may_be_unknown_for_now() -> None:
    class Away:
        async def identify(self, shown: str, *, by_unix_socket: bool) -> object:
            raise Unavailable("the database does not answer")

    async def app(scope: object, receive: object, send: object) -> None:
        raise AssertionError("nothing is read meanwhile")

    guard = ScrapeGuard(app, Away(), open_here=False)  # type: ignore[arg-type]
    transport = httpx.ASGITransport(guard)
    async with httpx.AsyncClient(transport=transport, base_url="http://corral") as http:
        answer = await http.get("/metrics", headers={"Authorization": "Bearer x"})
        assert (answer.status_code, "retry-after" in answer.headers) == (503, True)
