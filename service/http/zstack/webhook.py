"""Tells finished jobs to their callers' addresses, and to no address that the configuration does not allow.

A name is resolved here and the connection goes to the address that was checked, so that a name server cannot lead it
elsewhere afterwards. Redirects are not followed.
"""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Iterable

import httpx

from service.app.jobs import Job, JobState
from service.app.resolving import Resolve, resolve
from service.http.zstack.apis import APIS
from service.http.zstack.schema import with_schema
from service.telemetry.logs import get_logger

INTERVAL_SECONDS = 2.0
_TIMEOUT_SECONDS = 5.0
_MAX_URL = 2048
_AT_ONCE = 32

_log = get_logger("corral.webhook")


class WebhookRefused(Exception):
    """The address may not be called; the text says why."""


class Webhooks:
    """Calls of webhooks, a bounded number at once."""

    def __init__(
        self, networks: Iterable[str], *, resolve: Resolve = resolve, interval_seconds: float = INTERVAL_SECONDS
    ) -> None:
        """`networks`: the allowed ones in CIDR notation."""
        self._networks = [ipaddress.ip_network(network) for network in networks]
        self._resolve = resolve
        self._interval = interval_seconds
        self._room = asyncio.Semaphore(_AT_ONCE)

    async def check(self, url: str) -> None:
        """Raises WebhookRefused for what cannot or may not be called."""
        await self._target(url)

    async def deliver(self, job: Job, tries: int) -> None:
        """POST the job's outcome to its webhook until it answers 2xx, `tries` times at most. Raises nothing."""
        problem = ""
        for number in range(tries):
            if number:
                await asyncio.sleep(self._interval)
            try:
                async with self._room:
                    status = await self._post(job)
            except (WebhookRefused, httpx.HTTPError, OSError) as error:
                problem = str(error) or type(error).__name__
                continue
            if 200 <= status < 300:
                return
            problem = f"status {status}"
        _log.warning("a webhook was not reached", job=job.uuid, tries=tries, problem=problem)

    async def _post(self, job: Job) -> int:
        url, address = await self._target(job.webhook)
        headers = {
            "Host": url.netloc.decode("ascii"),
            "Content-Type": "application/json; charset=utf-8",
            "X-Job-UUID": job.uuid,
            "X-Job-Success": "true" if job.state is JobState.SUCCEEDED else "false",
        }
        # Without the environment's proxies: what is not reached directly was not checked.
        async with (
            httpx.AsyncClient(timeout=_TIMEOUT_SECONDS, follow_redirects=False, trust_env=False) as client,
            client.stream(
                "POST",
                url.copy_with(host=address),
                content=_body(job).encode(),
                headers=headers,
                extensions={"sni_hostname": url.host},
            ) as response,
        ):
            return response.status_code

    async def _target(self, text: str) -> tuple[httpx.URL, str]:
        """The URL, and the allowed address that it leads to."""
        try:
            url = httpx.URL(text) if len(text) <= _MAX_URL else None
        except httpx.InvalidURL:
            url = None
        if (
            url is None
            or url.scheme not in ("http", "https")
            or not url.host
            or url.userinfo
            or (url.port or 1) > 65535
        ):
            raise WebhookRefused("a web hook is an http or https URL without user information")
        try:
            addresses = await self._resolve(url.host, url.port or (443 if url.scheme == "https" else 80))
        except (OSError, UnicodeError) as error:
            raise WebhookRefused("the web hook's host has no address") from error
        for address in addresses:
            if self._allowed(address):
                return url, address
        raise WebhookRefused("the web hook's address is not allowed")

    def _allowed(self, address: str) -> bool:
        plain = ipaddress.ip_address(address)
        mapped = plain.ipv4_mapped if isinstance(plain, ipaddress.IPv6Address) else None
        return any((mapped or plain) in network for network in self._networks)


def _body(job: Job) -> str:
    """The outcome with its `schema`: whether the caller's client needs it is not kept, and others ignore it."""
    api = APIS.get(job.operation)
    return job.outcome if api is None or job.state is not JobState.SUCCEEDED else with_schema(job.outcome, api.holds)
