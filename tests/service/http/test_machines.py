"""The listener for machines: seeds by ranges, reports by token, and nothing else."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from service.domain.seats import Report, Seed
from service.http.machines import machines_app

pytestmark = pytest.mark.asyncio

CONTENT = bytes(range(256)) * 8


async def ask(method: str, path: str, **named: Any) -> tuple[httpx.Response, list[tuple[str, Report]]]:
    told: list[tuple[str, Report]] = []

    async def seed(token: str) -> Seed | None:
        return Seed(CONTENT, 17) if token == "right" else None

    async def tell(token: str, report: Report) -> bool:
        told.append((token, report))
        return token == "right"

    transport = httpx.ASGITransport(machines_app(seed, tell))
    async with httpx.AsyncClient(transport=transport, base_url="http://machines") as client:
        return await client.request(method, path, **named), told


@pytest.mark.parametrize(
    ("wanted", "code", "part"),
    [
        ("", 200, CONTENT),
        ("bytes=0-9", 206, CONTENT[:10]),
        ("bytes=2000-", 206, CONTENT[2000:]),
        ("bytes=-5", 206, CONTENT[-5:]),
        ("bytes=2040-9999", 206, CONTENT[2040:]),
        ("bytes=2048-", 416, b""),
        ("bytes=-", 200, CONTENT),
        ("lines=1-2", 200, CONTENT),
    ],
)
async def test_a_seed_is_read_whole_or_by_pieces(wanted: str, code: int, part: bytes) -> None:
    answer, _ = await ask("GET", "/machines/seed/right.iso", headers={"range": wanted} if wanted else {})
    assert (answer.status_code, answer.content) == (code, part)
    assert answer.headers["etag"]


async def test_a_head_tells_its_size() -> None:
    answer, _ = await ask("HEAD", "/machines/seed/right.iso")
    assert (answer.status_code, answer.headers["content-length"]) == (200, str(len(CONTENT)))


@pytest.mark.parametrize("path", ["/machines/seed/wrong.iso", "/machines/report"])
async def test_what_was_given_up_is_gone(path: str) -> None:
    method = "POST" if path.endswith("report") else "GET"
    answer, _ = await ask(method, path, headers={"authorization": "Bearer wrong"}, content=b'{"stage": "ready"}')
    assert answer.status_code == 410


async def test_a_report_is_kept_as_it_was_said() -> None:
    said = b'{"stage": "ready", "epoch": 3, "address": "10.0.0.9", "rank": 1, "more": [1]}'
    answer, told = await ask("POST", "/machines/report", headers={"authorization": "Bearer right"}, content=said)
    assert answer.status_code == 204
    assert told == [("right", Report("ready", epoch=3, address="10.0.0.9", rank=1))]


@pytest.mark.parametrize(
    ("said", "code", "named"),
    [
        (b"[]", 400, "object"),
        (b"{}", 400, "stage"),
        (b"\xff", 400, ""),
        (b'{"stage": 3}', 400, "stage"),
        (b'{"stage": "a\\nb"}', 400, "stage"),
        (b'{"stage": "x", "epoch": true}', 400, "epoch"),
        (b'{"stage": "x", "rank": -2}', 400, "rank"),
        (b'{"stage": "' + b"x" * 20_000 + b'"}', 413, ""),
    ],
)
async def test_what_is_no_report_is_refused_by_name(said: bytes, code: int, named: str) -> None:
    answer, told = await ask("POST", "/machines/report", headers={"authorization": "Bearer right"}, content=said)
    assert answer.status_code == code
    assert named in answer.text
    assert told == []


@pytest.mark.parametrize("path", ["/", "/metrics", "/healthz", "/machines/seed/", "/corral/v1/hosts"])
async def test_nothing_else_is_served(path: str) -> None:
    answer, _ = await ask("GET", path)
    assert answer.status_code == 404


async def test_a_report_without_a_token_is_nobodys() -> None:
    answer, told = await ask("POST", "/machines/report", content=b'{"stage": "ready"}')
    assert (answer.status_code, told) == (401, [])
