"""The guide "Two replicas behind Envoy" as it stands: its files, with other addresses, on a real Envoy."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import ssl
import subprocess
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from corral.v1 import group_pb2

from service.client import CorralClient
from tests.concurrency.replicas import simulated_fleet
from tests.contract.own_clients import ARCHIVE, LANGUAGES, follow
from tests.contract.test_envoy import ENVOY
from tests.support import ROOT
from tests.support.builders import ENTRY, ZONE
from tests.support.certificates import certificate
from tests.support.ports import own_port
from tests.support.postgres import Postgres
from tests.support.process import ServiceProcess

GUIDE = ROOT / "deploy" / "envoy"
TOKEN = "what-the-guide-does-not-say"
ACCOUNTS = f"""
[identity]
anonymous = "nobody"
[[tokens]]
name = "tests"
sha256 = "{hashlib.sha256(TOKEN.encode()).hexdigest()}"
role = "admin"
project = "default"
[[accounts]]
name = "admin"
password_sha512 = "{hashlib.sha512(b"secret").hexdigest()}"
role = "admin"
"""
BOOT_MS = 6000


def replaced(text: str, places: dict[str, str]) -> str:
    """The text with other addresses and paths. Fails where one of them is not in it."""
    for old, new in places.items():
        assert old in text, old
        text = text.replace(old, new)
    return text


@dataclass
class Installation:
    """Envoy, and two replicas behind it."""

    address: str
    admin: str
    authority: Path
    replicas: list[ServiceProcess]

    @property
    def client(self) -> CorralClient:
        """A client that knows Envoy's address alone."""
        trusted = grpc.ssl_channel_credentials(self.authority.read_bytes())
        token = grpc.access_token_call_credentials(TOKEN)
        return CorralClient(self.address, credentials=grpc.composite_channel_credentials(trusted, token),
                            pause=lambda _seconds: time.sleep(0.05))  # fmt: skip

    def endpoints(self, cluster: str) -> dict[str, Any]:
        """Envoy's own words about each replica, by its address."""
        with urllib.request.urlopen(f"http://{self.admin}/clusters?format=json", timeout=10) as answer:
            told = json.load(answer)["cluster_statuses"]
        (found,) = [each for each in told if each["name"] == cluster]
        return {f"127.0.0.1:{each['address']['socket_address']['port_value']}": each for each in found["host_statuses"]}

    def healthy(self, cluster: str) -> set[str]:
        """The replicas to which Envoy sends calls."""
        return {
            address
            for address, told in self.endpoints(cluster).items()
            if told["health_status"] == {"eds_health_status": "HEALTHY"}
        }

    def serving(self) -> ServiceProcess:
        """The replica that has an open stream."""

        def open_streams(replica: ServiceProcess) -> int:
            stats = {each["name"]: int(each.get("value", 0)) for each in self.endpoints("grpc")[replica.grpc]["stats"]}
            return stats["rq_active"]

        found: list[ServiceProcess] = []

        def one() -> bool:
            found[:] = [replica for replica in self.replicas if open_streams(replica)]
            return len(found) == 1

        until(one)
        return found[0]


def until(what: Callable[[], bool], seconds: float = 60) -> None:
    """Wait until it is so. Fails after the time."""
    patience = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < patience, "it did not come to be"
        time.sleep(0.05)


@contextmanager
def envoy(configuration: Path, log: Path, admin: str) -> Iterator[None]:
    """A running Envoy that has taken its configuration."""
    base = [str(ENVOY), "-c", str(configuration), "--concurrency", "1", "--disable-hot-restart"]
    environment = {"PATH": os.environ["PATH"]}
    done = subprocess.run([*base, "--mode", "validate"], env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    with log.open("wb") as out:
        process = subprocess.Popen([*base, "-l", "error"], stdout=out, stderr=out, env=environment)
        try:

            def ready() -> bool:
                assert process.poll() is None, log.read_text()
                try:
                    with urllib.request.urlopen(f"http://{admin}/ready", timeout=5) as answer:
                        return bool(answer.status == 200)
                except OSError:
                    return False

            until(ready)
            yield
        finally:
            process.terminate()
            process.wait()


@pytest.fixture(scope="module")
def installation(tmp_path_factory: pytest.TempPathFactory, postgres: Postgres) -> Iterator[Installation]:
    if not ENVOY.exists():
        pytest.fail("Envoy is not installed: make dev")
    directory = tmp_path_factory.mktemp("two")
    public, private = certificate("corral.example")
    (directory / "server.pem").write_bytes(public)
    (directory / "server.key").write_bytes(private)
    (directory / "server.key").chmod(0o600)
    (directory / "hosts").mkdir()
    (lines,) = re.findall(r"^```toml\n(.*?)^```$", (GUIDE / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    fleet = simulated_fleet(directory, 1, vcpu=8).replace('boot_ms = "20"', f'boot_ms = "{BOOT_MS}"')
    database = postgres.create_database()
    replicas, ports = [], {}
    for number in (1, 2):
        own = directory / f"replica-{number}"
        own.mkdir()
        ports[number] = (own_port(), own_port())
        text = replaced(
            lines,
            {
                "10.0.0.11:50051": f"127.0.0.1:{ports[number][0]}",
                "10.0.0.11:8080": f"127.0.0.1:{ports[number][1]}",
                "10.0.0.10/32": "127.0.0.1/32",
                "/etc/corral": str(directory),
                "postgresql+psycopg://corral@10.0.0.13/corral": postgres.url(database),
            },
        )
        file = own / "corral.toml"
        file.write_text(f'{text}\n[log]\nformat = "json"\n{ACCOUNTS}\n{fleet}')
        replicas.append(ServiceProcess(file))
    listen, admin = own_port(), own_port()
    text = replaced(
        (GUIDE / "envoy.yaml").read_text(),
        {
            "address: 0.0.0.0, port_value: 443": f"address: 127.0.0.1, port_value: {listen}",
            "port_value: 9901": f"port_value: {admin}",
            "address: 10.0.0.11, port_value: 50051": f"address: 127.0.0.1, port_value: {ports[1][0]}",
            "address: 10.0.0.12, port_value: 50051": f"address: 127.0.0.1, port_value: {ports[2][0]}",
            "address: 10.0.0.11, port_value: 8080": f"address: 127.0.0.1, port_value: {ports[1][1]}",
            "address: 10.0.0.12, port_value: 8080": f"address: 127.0.0.1, port_value: {ports[2][1]}",
            "/etc/envoy/corral-ca.pem": str(directory / "server.pem"),
            "/etc/envoy": str(directory),
        },
    )
    (directory / "envoy.yaml").write_text(text)
    made = Installation(f"localhost:{listen}", f"127.0.0.1:{admin}", directory / "server.pem", replicas)
    with ExitStack() as stack:
        for replica in replicas:
            stack.enter_context(replica)
        stack.enter_context(envoy(directory / "envoy.yaml", directory / "envoy.log", made.admin))
        until(lambda: len(made.healthy("grpc")) == len(made.healthy("http")) == 2)
        yield made
    postgres.drop_database(database)


def node() -> group_pb2.NodeSpec:
    return group_pb2.NodeSpec(uuid=ENTRY, zone_uuid=ZONE, cpu_num=1, memory_size=1 << 28)


# Of a replica that was killed the groups are taken up when their leases have run out.
@pytest.mark.parametrize("how", ["stop", pytest.param("kill", marks=pytest.mark.slow)])
def test_a_deploy_outlasts_the_replica_that_tells_of_it(
    installation: Installation, how: str, passed: Callable[[str], None]
) -> None:
    booting = threading.Event()
    gone: list[ServiceProcess] = []

    def harm() -> None:
        assert booting.wait(60)
        gone.append(installation.serving())
        gone[0].kill() if how == "kill" else gone[0].stop()

    helper = threading.Thread(target=harm)
    helper.start()
    told = []

    def tell(event: group_pb2.InstanceGroupEvent) -> None:
        told.append(event.revision)
        if event.WhichOneof("change") == "instance" and event.instance.status == "Booting":
            booting.set()

    with installation.client as client:
        group = client.deploy_and_wait(f"outlasts-{how}", [node()], on_event=tell)
        helper.join()
        assert group.status == "Running"
        assert told == sorted(set(told))
        # The one that is left serves all by itself, from the database alone.
        until(lambda: gone[0].grpc not in installation.healthy("grpc"))
        assert client.get(group.uuid).status == "Running"
        gone[0].start()
        until(lambda: len(installation.healthy("grpc")) == 2)
        assert client.delete_and_wait(group.uuid).status == "Deleted"
    passed(f"Envoy before two replicas: a deploy through the {how} of the replica that told of it, by TLS with a token")


def test_every_other_face_goes_through_it(installation: Installation, passed: Callable[[str], None]) -> None:
    trust = ssl.create_default_context(cafile=str(installation.authority))
    base = f"https://{installation.address}"
    who = {"authorization": f"Bearer {TOKEN}"}
    with httpx.Client(base_url=base, verify=trust, trust_env=False, timeout=60) as client:
        assert client.get("/healthz").status_code == 200
        assert client.get("/").headers["content-type"].startswith("text/html")
        assert client.get("/corral/v1/instance-groups").status_code == 401
        assert client.get("/corral/v1/instance-groups", headers=who).status_code == 200
        password = hashlib.sha512(b"secret").hexdigest()
        login = {"logInByAccount": {"accountName": "admin", "password": password}}
        session = client.put("/zstack/v1/accounts/login", json=login).json()["inventory"]["uuid"]
        # A session is every replica's.
        for _ in range(6):
            zones = client.get("/zstack/v1/zones", headers={"authorization": f"OAuth {session}"}).json()
            assert [zone["uuid"] for zone in zones["inventories"]] == [ZONE]
        web = client.post(
            "/corral.v1.FleetService/ListZones", content=b"\0\0\0\0\0",
            headers=who | {"content-type": "application/grpc-web+proto", "x-grpc-web": "1"},
        )  # fmt: skip
        assert b"grpc-status:0" in web.content.replace(b" ", b"")
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{base}/healthz", trust_env=False)
    passed("Envoy before two replicas: JSON, ZStack's API, the page, gRPC-Web, with TLS that strangers do not trust")


# Debian's netty negotiates no HTTP/2 by TLS, as the page about Java says.
@pytest.mark.parametrize("language", LANGUAGES[:-1])
def test_a_client_of_ones_own_goes_through_it_with_tls_and_a_token(
    language: str, installation: Installation, archive: Path, tmp_path: Path, passed: Callable[[str], None]
) -> None:
    shutil.copy(archive, tmp_path / ARCHIVE)
    follow(language, tmp_path, installation.address, CORRAL_CA=str(installation.authority), CORRAL_TOKEN=TOKEN)
    passed(f"Envoy before two replicas: own client, {language}, by TLS with a token")
