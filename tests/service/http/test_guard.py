"""What web pages of other origins send is refused on every face, and what programs send is not."""

from __future__ import annotations

import hashlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio

from service.config.file import ConfigError, parse
from tests.support.whole import ENTRY, GIB, ZONE, Whole, config_text, whole

PASSWORD = hashlib.sha512(b"secret").hexdigest()
ACCOUNT = f'[[accounts]]\nname = "root"\npassword_sha512 = "{PASSWORD}"\nrole = "admin"\n'
DEPLOY = {
    "name": "made-by-a-page",
    "serviceCreationStrategy": "parallel",
    "modelServices": [{"uuid": ENTRY, "zoneUuid": ZONE, "cpuNum": 1, "memorySize": str(GIB)}],
}
EVIL = "https://evil.example"
PATHS = ["/corral/v1/instance-groups", "/zstack/v1/zones", "/v1/zones", "/zstack/api", "/metrics", "/openapi.json", "/"]


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def lab(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Whole]:
    async with whole(tmp_path_factory.mktemp("guard"), config_text(extra=ACCOUNT)) as made:
        yield made


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def http(lab: Whole) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=f"http://{lab.http_address}", trust_env=False, timeout=120) as made:
        yield made


def reason(answer: httpx.Response) -> str:
    """The reason in a JSON error."""
    return str(answer.json()["error"]["details"][0]["reason"])


pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": EVIL},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:1"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Host": "evil.example"},
        {"Host": "127.0.0.1.evil.example:8080"},
        {"Host": "[{"},
        {"Origin": "http://[x"},
    ],
    ids=lambda headers: "-".join(*headers.items()),
)
async def test_a_page_of_another_origin_and_a_foreign_host_are_refused_on_every_face(
    http: httpx.AsyncClient, path: str, headers: dict[str, str]
) -> None:
    for verb in ("GET", "POST"):
        answer = await http.request(verb, path, headers=headers)
        assert answer.status_code == 403, answer.text
        if path.startswith("/corral/"):
            assert answer.json()["error"]["status"] == "PERMISSION_DENIED"
            assert reason(answer) == ("FOREIGN_HOST" if "Host" in headers else "CROSS_SITE")
        else:
            assert answer.headers["content-type"].startswith("text/plain")
        assert answer.headers["x-request-id"]


async def test_what_a_page_may_send_unasked_deploys_nothing(lab: Whole, http: httpx.AsyncClient) -> None:
    body = json.dumps(DEPLOY)
    simple = {"Content-Type": "text/plain"}
    for headers in ({**simple, "Origin": EVIL, "Sec-Fetch-Site": "cross-site"}, {**simple, "Origin": EVIL}, simple):
        answer = await http.post("/corral/v1/instance-groups", content=body, headers=headers)
        assert answer.status_code == (403 if "Origin" in headers else 415)
    listed = await http.get("/corral/v1/instance-groups")
    assert listed.json().get("inventories", []) == []
    counted = lab.service.metrics.registry.get_sample_value(
        "corral_calls_total", {"face": "json", "method": "unknown/unknown", "code": "PermissionDenied"}
    )
    assert counted


async def test_programs_own_pages_and_addresses_are_served(lab: Whole, http: httpx.AsyncClient) -> None:
    port = lab.http_address.rpartition(":")[2]
    own: list[dict[str, str]] = [
        {},
        {"Host": "localhost"},
        {"Host": f"localhost:{port}"},
        {"Host": "[::1]:8080"},
        {"Host": "10.1.2.3"},
        {"Origin": f"http://{lab.http_address}"},
        {"Host": f"localhost:{port}", "Origin": f"http://localhost:{port}", "Sec-Fetch-Site": "same-origin"},
        {"Sec-Fetch-Site": "none", "Sec-Fetch-Mode": "navigate"},
    ]
    for headers in own:
        answer = await http.get("/corral/v1/instance-groups", headers=headers)
        assert answer.status_code == 200, (headers, answer.text)


async def test_a_link_on_another_page_leads_a_person_to_a_page_and_to_no_face(http: httpx.AsyncClient) -> None:
    link = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
    assert (await http.get("/", headers=link)).status_code == 200
    assert (await http.get("/corral/v1/instance-groups", headers=link)).status_code == 403
    assert (await http.get("/", headers={**link, "Sec-Fetch-Dest": "iframe"})).status_code == 403
    assert (await http.post("/", headers=link)).status_code == 403


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        ("application/json", 404),
        ("Application/JSON; charset=utf-8", 404),
        ("text/plain", 415),
        ("application/x-www-form-urlencoded", 415),
        ("application/json-seq", 415),
        ("", 415),
    ],
)
async def test_a_body_must_be_told_to_be_json(http: httpx.AsyncClient, kind: str, status: int) -> None:
    headers = {"Content-Type": kind} if kind else {}
    answer = await http.patch(f"/corral/v1/instance-groups/{'0' * 32}", content=b'{"name": "x"}', headers=headers)
    assert answer.status_code == status, answer.text
    if status == 415:
        assert (answer.json()["error"]["status"], reason(answer)) == ("INVALID_ARGUMENT", "UNSUPPORTED_MEDIA_TYPE")


async def test_no_body_needs_no_kind(http: httpx.AsyncClient) -> None:
    answer = await http.post(f"/corral/v1/instance-groups/{'0' * 32}:restart")
    assert answer.status_code == 404


async def test_names_that_the_configuration_tells_are_served_and_no_others(tmp_path: Path) -> None:
    text = config_text().replace("[server]", '[server]\nhost_names = ["corral.example"]')
    async with (
        whole(tmp_path, text) as lab,
        httpx.AsyncClient(base_url=f"http://{lab.http_address}", trust_env=False, timeout=120) as http,
    ):
        for host, status in (("corral.example", 200), ("CORRAL.example:8080", 200), ("other.example", 403)):
            assert (await http.get("/healthz", headers={"Host": host})).status_code == status


def names(server: str) -> tuple[str, ...] | None:
    text = config_text().replace('http = "127.0.0.1:0"', server)
    return parse(text, Path("/nowhere")).server.known_host_names


async def test_only_listeners_of_this_machine_know_their_names_by_themselves() -> None:
    assert names('http = "127.0.0.1:0"') == ()
    assert names('http = "unix:/run/corral.sock"') is None
    assert names('http = "0.0.0.0:8080"\ninsecure = true') is None
    assert names('http = "0.0.0.0:8080"\ninsecure = true\nhost_names = ["a.example"]') == ("a.example",)
    for wrong in ('host_names = ["*"]', 'host_names = ["a/b"]', 'trusted_proxies = ["proxy"]'):
        with pytest.raises(ConfigError, match=wrong.partition(" ")[0]):
            names(f'http = "127.0.0.1:0"\n{wrong}')


async def guess(http: httpx.AsyncClient, number: int) -> httpx.Response:
    """A wrong password, from another address as the header has it."""
    body: dict[str, Any] = {"logInByAccount": {"accountName": "root", "password": "0" * 128}}
    headers = {"X-Forwarded-For": f"198.51.100.{number}"}
    return await http.put("/zstack/v1/accounts/login", json=body, headers=headers)


@pytest.mark.parametrize(("server", "last"), [("", 429), ('trusted_proxies = ["127.0.0.1/32"]', 503)])
async def test_who_calls_is_believed_from_proxies_that_the_configuration_names_alone(
    tmp_path: Path, server: str, last: int
) -> None:
    text = config_text(extra=ACCOUNT).replace("[server]", f"[server]\n{server}")
    async with (
        whole(tmp_path, text) as lab,
        httpx.AsyncClient(base_url=f"http://{lab.http_address}", trust_env=False, timeout=120) as http,
    ):
        answers = [(await guess(http, number)).status_code for number in range(11)]
    assert answers == [503] * 10 + [last]
