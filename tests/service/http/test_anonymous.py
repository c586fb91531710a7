"""Who shows nothing is an administrator by a unix socket alone, or where the configuration says so of loopback."""

from __future__ import annotations

import asyncio
import os
import tempfile
from pathlib import Path

import grpc
import httpx
import pytest
from corral.v1 import fleet_pb2

from service.config.file import ConfigError, parse, warnings
from service.domain.tenants import Anonymous
from tests.support.whole import FILE, HOST, ZONE, config_text, whole

HOSTS = HOST.format(name="host-1", cpu=1, migrate_ms=20, live="yes")
GROUPS = "/corral/v1/instance-groups"
USER = '[zones.network]\nkind = "user"\n[[hosts]]\nname = "local"\nzone = "zone-1"\ndriver = "{driver}"\n{more}'


@pytest.mark.asyncio
async def test_by_tcp_nobody_is_anything_without_credentials_unless_it_is_said(tmp_path: Path) -> None:
    async with whole(tmp_path, FILE + HOSTS) as lab:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await lab.fleet.ListZones(fleet_pb2.ListZonesRequest())
        assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
        async with httpx.AsyncClient(base_url=f"http://{lab.http_address}", trust_env=False) as http:
            assert (await http.get(GROUPS)).status_code == 401
            assert (await http.get("/healthz")).status_code == 200


@pytest.mark.asyncio
async def test_by_a_unix_socket_its_mode_lets_in_and_nobody_behind_a_proxy(tmp_path: Path) -> None:
    text = FILE.replace('grpc = "127.0.0.1:0"', f'grpc = "unix:{tmp_path}/grpc"')
    text = text.replace('http = "127.0.0.1:0"', f'http = "unix:{tmp_path}/http"')
    async with whole(tmp_path, text + HOSTS) as lab:
        zones = await lab.fleet.ListZones(fleet_pb2.ListZonesRequest())
        assert [zone.uuid for zone in zones.inventories] == [ZONE]
        for header in ("x-forwarded-for", "forwarded"):
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await lab.fleet.ListZones(fleet_pb2.ListZonesRequest(), metadata=((header, "198.51.100.1"),))
            assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
        transport = httpx.AsyncHTTPTransport(uds=f"{tmp_path}/http")
        async with httpx.AsyncClient(base_url="http://localhost", transport=transport, trust_env=False) as http:
            assert (await http.get(GROUPS)).status_code == 200
            for header in ("X-Forwarded-For", "Forwarded"):
                assert (await http.get(GROUPS, headers={header: "198.51.100.1"})).status_code == 401


@pytest.mark.asyncio
async def test_the_audit_tells_by_which_user_of_this_machine_a_change_was_made(tmp_path: Path) -> None:
    text = FILE.replace('grpc = "127.0.0.1:0"', f'grpc = "unix:{tmp_path}/grpc"')
    text = text.replace('http = "127.0.0.1:0"', f'http = "unix:{tmp_path}/http"')
    async with whole(tmp_path, text + HOSTS) as lab:
        uuid = lab.uuid_of("host-1")
        await lab.fleet.UpdateHost(fleet_pb2.UpdateHostRequest(uuid=uuid, description="by gRPC"))
        transport = httpx.AsyncHTTPTransport(uds=f"{tmp_path}/http")
        async with httpx.AsyncClient(base_url="http://localhost", transport=transport, trust_env=False) as http:
            changed = await http.patch(f"/corral/v1/hosts/{uuid}", json={"description": "by JSON"})
            assert changed.status_code == 200, changed.text
            rows = (await http.get("/corral/v1/audit-events")).json()["inventories"]
        assert [row["peer"] for row in rows] == [f"uid {os.geteuid()}", "local"], "gRPC does not tell a peer's user"


NOBODY = 65534


async def status_as(path: Path, *options: str) -> str:
    """The status that another user's program gets by the socket; 000 where it cannot connect."""
    called = await asyncio.create_subprocess_exec(
        "setpriv", f"--reuid={NOBODY}", *options, "curl", "-s", "-o", "/dev/null", "-w", "%{http_code}",
        "--unix-socket", str(path), f"http://localhost{GROUPS}",
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    told, _ = await called.communicate()
    return told.decode()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
@pytest.mark.asyncio
async def test_another_user_is_let_in_by_the_sockets_owner_or_group_alone_whatever_its_mode_became() -> None:
    stranger, member = (f"--regid={NOBODY}", "--clear-groups"), (f"--regid={NOBODY}", "--groups=4242")
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        os.chmod(name, 0o755)  # of pytest's own directories others see nothing
        path = directory / "http"
        text = FILE.replace('http = "127.0.0.1:0"', f'http = "unix:{path}"\nsocket_mode = "0660"')
        async with whole(directory, text + HOSTS):
            assert path.stat().st_mode & 0o777 == 0o660
            assert await status_as(path, *stranger) == "000"
            os.chown(path, -1, 4242)
            assert await status_as(path, *member) == "200"
            assert await status_as(path, *stranger) == "000"
            os.chmod(path, 0o666)  # by hand: the kernel lets everybody connect, and says who it is
            assert await status_as(path, *stranger) == "401"
            assert await status_as(path, *member) == "200"
            os.chown(path, NOBODY, -1)
            os.chmod(path, 0o600)
            assert await status_as(path, *stranger) == "200"
            assert await status_as(path, *member) == "200"


def test_the_old_words_are_understood_and_the_default_is_the_careful_one() -> None:
    def said(value: str) -> Anonymous:
        extra = f"[identity]\nanonymous = {value}\n" if value else ""
        return parse(FILE + HOSTS + extra, Path("/nowhere")).anonymous

    words = {"": "unix", "true": "loopback", "false": "nobody", '"loopback"': "loopback", '"nobody"': "nobody"}
    assert {value: said(value).value for value in words} == words
    with pytest.raises(ConfigError, match=r"identity\.anonymous"):
        said('"all"')


def with_user_network(driver: str, more: str, anonymous: str, server: str = "") -> None:
    text = FILE.replace('name = "zone-1"\n', f'name = "zone-1"\n{USER.format(driver=driver, more=more)}')
    text = text.replace("[server]", f"[server]\n{server}")
    parse(f'{text}\n[identity]\nanonymous = "{anonymous}"\n', Path("/nowhere"))


def test_a_guest_that_reaches_loopback_and_callers_that_need_nothing_there_do_not_come_together() -> None:
    with pytest.raises(ConfigError, match=r"hosts\[0\]\.zone: guests on a network of kind 'user'"):
        with_user_network("libvirt", "", "loopback")
    with_user_network("libvirt", "", "unix")
    with_user_network("libvirt", "", "nobody")
    with_user_network("libvirt", 'transport = "tcp"\naddress = "192.0.2.7"\n', "loopback")
    with_user_network("simulated", 'transport = "test"\n', "loopback")


@pytest.mark.asyncio
async def test_nor_do_they_by_a_host_that_is_added_later(tmp_path: Path) -> None:
    async with whole(tmp_path, config_text()) as lab:
        network = fleet_pb2.ZoneNetwork(kind="user")
        zone = (await lab.fleet.CreateZone(fleet_pb2.CreateZoneRequest(name="user", network=network))).inventory
        request = fleet_pb2.AddHostRequest(
            name="local", zone_uuid=zone.uuid, driver="libvirt", connection=fleet_pb2.HostConnection(transport="unix")
        )
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await lab.fleet.AddHost(request)
        assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert "this machine's loopback" in str(refused.value.details())


def test_a_key_file_that_others_can_read_is_warned_of(tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text("secret")
    text = config_text(extra=f'[[credentials]]\nname = "lab"\nssh_key = "{key}"\n')
    for mode, warned in ((0o600, False), (0o640, True), (0o604, True)):
        key.chmod(mode)
        found = [line for line in warnings(parse(text, tmp_path)) if line.startswith("credentials.lab:")]
        assert bool(found) is warned, oct(mode)
