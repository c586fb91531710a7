"""What ZStack's own SDKs once said to the service is said again, and answered as it was, byte for byte.

`python -m tests.contract.zstack_sdks` keeps it, from the SDKs' sources, which are no part of this project: each of
these answers was read by their classes without an error.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path

import httpx
import pytest

from tests.contract.recording import Exchange, Places, read

from .lab import lab, recorded
from .test_schema import read_as_the_sdk_does

# The SDK's classes of what its typed reads gave. Go's asks only queries for them.
_QUERIED = {
    "ZoneInventory", "KVMHostInventory", "ClusterInventory", "ImageInventory", "ModelServiceInventory",
    "ModelServiceInstanceGroupInventory", "ModelServiceInstanceInventory", "VmInstanceInventory", "VmNicInventory",
}  # fmt: skip
TYPES: Mapping[str, set[str]] = {"java": _QUERIED | {"SessionInventory", "CpuMemoryCapacityData"}, "go": _QUERIED}
FILES = sorted((Path(__file__).parent / "recorded").glob("*.json"))


async def say(http: httpx.AsyncClient, exchange: Exchange, places: Places) -> httpx.Response:
    """The kept request in this run; of a job's answer, the last."""
    # As a whole, so that not even a slash is written otherwise than the SDK wrote it.
    path, _, query = places.filled(exchange.target).partition("?")
    url = http.base_url.copy_with(raw_path=f"{path}?{query}".encode() if query else path.encode())
    headers = {name: places.filled(value) for name, value in exchange.headers.items()}
    body = places.filled(exchange.body).encode() or None
    async with asyncio.timeout(60):
        while True:
            answer = await http.request(exchange.method, url, headers=headers, content=body)
            if exchange.method != "GET" or answer.status_code != 202:
                return answer
            await asyncio.sleep(0.02)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
@pytest.mark.asyncio
async def test_a_recorded_sdk_is_answered_as_it_was(file: Path) -> None:
    async with lab(text=recorded(Path("/nonexistent"))) as zstack:
        places = Places(zstack.http_address)
        for number, exchange in enumerate(read(file), 1):
            answer = await say(zstack.http, exchange, places)
            told = f"{number}: {exchange.method} {exchange.target}\nwas {exchange.answer}\nis  {answer.text}"
            assert answer.status_code == exchange.status, told
            assert places.learn(exchange.answer, answer.text), told


def test_both_languages_are_recorded_and_every_typed_answer_can_be_read_as_the_sdk_does() -> None:
    assert [file.stem for file in FILES] == ["go", "java"]
    for file in FILES:
        exchanges = read(file)
        assert exchanges[0].body.startswith('{"logInByAccount"'), file
        assert any(each.method == "DELETE" and "/accounts/sessions/" in each.target for each in exchanges), file
        typed: set[str] = set()
        for each in exchanges:
            if each.answer.startswith("{"):
                # A place for a revision is no JSON.
                body = json.loads(each.answer.replace("{{revision}}", "0"))
                typed |= set(read_as_the_sdk_does(body).values())
        assert typed >= TYPES[file.stem], file


def test_a_place_takes_one_value_wherever_it_stands() -> None:
    places = Places("127.0.0.1:1")
    wanted = '{"a":"{{uuid:1}}","b":"{{uuid:1}}","at":"{{date}}"}'
    good = f'{{"a":"{"1" * 32}","b":"{"1" * 32}","at":"Nov 14, 2017 10:20:57 PM"}}'
    assert not places.learn(wanted, good.replace("1" * 32, "2" * 32, 1))
    assert places.learn(wanted, good)
    assert places.filled("/{{uuid:1}}?at={{address}}") == f"/{'1' * 32}?at=127.0.0.1:1"
    assert not places.learn("{{uuid:1}}", "3" * 32)
    assert not places.learn(wanted, good + " ")
