"""The command's connection: the token reaches the service, and only over what nobody else can read."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from concurrent import futures
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from corral.v1 import deploy_pb2, deploy_pb2_grpc, group_pb2
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from service.cli import channel, errors
from service.cli.channel import CannotConnect, is_local, open_channel
from service.cli.main import main


class Listening(deploy_pb2_grpc.DistributedModelServiceServicer):
    """Remembers the authorization of each call."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def _note(self, context: Any) -> None:
        self.seen.append(str(dict(context.invocation_metadata()).get("authorization", "")))

    def ListInstanceGroups(self, request: Any, context: Any) -> Any:  # noqa: N802
        self._note(context)
        return deploy_pb2.ListInstanceGroupsResponse()

    def WatchInstanceGroups(self, request: Any, context: Any) -> Iterator[Any]:  # noqa: N802
        self._note(context)
        yield deploy_pb2.WatchInstanceGroupsResponse(event=group_pb2.InstanceGroupEvent(revision=1))


@pytest.fixture
def service() -> Listening:
    return Listening()


@pytest.fixture
def address(service: Listening, tmp_path: Path) -> Iterator[str]:
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=1))
    deploy_pb2_grpc.add_DistributedModelServiceServicer_to_server(service, server)
    server.add_insecure_port(f"unix:{tmp_path}/corral.sock")
    server.start()
    yield f"unix:{tmp_path}/corral.sock"
    server.stop(None).wait()


def test_the_token_goes_with_calls_and_streams(
    service: Listening, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["--server", address, "list"]) == errors.OK
    monkeypatch.setenv("CORRAL_TOKEN", "t0ken")
    assert main(["--server", address, "list"]) == errors.OK
    assert main(["--server", address, "watch"]) == errors.OK
    assert service.seen == ["", "Bearer t0ken", "Bearer t0ken"]


def test_the_token_is_not_sent_off_this_machine_without_tls(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CORRAL_TOKEN", "t0ken")
    assert main(["--server", "corral.example.net:50051", "list"]) == errors.USAGE
    told = capsys.readouterr().err
    assert "--ca" in told
    assert "t0ken" not in told


def test_no_server_at_all_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--server", "", "groups"]) == errors.USAGE
    assert "no server is named" in capsys.readouterr().err


def test_a_certificate_authority_that_is_not_there_is_said() -> None:
    with pytest.raises(CannotConnect, match=r"absent\.pem"):
        open_channel("127.0.0.1:1", certificate_authority="absent.pem")


@pytest.mark.parametrize(
    ("server", "local"),
    [
        ("unix:/run/corral.sock", True),
        ("127.0.0.1:50051", True),
        ("[::1]:50051", True),
        ("localhost:50051", True),
        ("10.0.0.1:50051", False),
        ("corral.example.net:50051", False),
        ("127.0.0.1.example.net:50051", False),
    ],
)
def test_only_loopback_and_unix_sockets_stay_on_this_machine(server: str, local: bool) -> None:
    assert is_local(server) is local


def self_signed(directory: Path, host: str = "") -> tuple[bytes, bytes, Path]:
    """Key, certificate for the host (127.0.0.1 without one), and the file that a client trusts."""
    alternative = x509.DNSName(host) if host else x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"corral {host}")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([alternative]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    ).public_bytes(serialization.Encoding.PEM)
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    file = directory / "ca.pem"
    file.write_bytes(certificate)
    return private, certificate, file


def test_over_tls_the_token_goes_to_whom_the_authority_vouches_for(
    service: Listening, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    private, certificate, trusted = self_signed(tmp_path)
    (tmp_path / "other").mkdir()
    _, _, other = self_signed(tmp_path / "other")
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=1))
    deploy_pb2_grpc.add_DistributedModelServiceServicer_to_server(service, server)
    port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([(private, certificate)]))
    server.start()
    monkeypatch.setenv("CORRAL_TOKEN", "t0ken")
    try:
        assert main(["--server", f"127.0.0.1:{port}", "--ca", str(trusted), "list"]) == errors.OK
        assert main(["--server", f"127.0.0.1:{port}", "--ca", str(other), "list"]) == errors.UNAVAILABLE
    finally:
        server.stop(None).wait()
    assert service.seen == ["Bearer t0ken"]


def over_tls(service: Listening, key: bytes, certificate: bytes) -> tuple[grpc.Server, int]:
    """The service with a certificate, on a port of its own."""
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=2))
    deploy_pb2_grpc.add_DistributedModelServiceServicer_to_server(service, server)
    port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([(key, certificate)]))
    server.start()
    return server, port


def test_each_of_several_addresses_is_known_by_its_own_name_in_its_certificate(
    service: Listening, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One is reached by 127.0.0.1, one by localhost, and one has a certificate for another host than it is called."""
    made = []
    for name, host in (("a", ""), ("b", "localhost"), ("c", "elsewhere.test")):
        (tmp_path / name).mkdir()
        made.append(self_signed(tmp_path / name, host))
    trusted = tmp_path / "all.pem"
    trusted.write_bytes(b"".join(certificate for _, certificate, _ in made))
    servers = [over_tls(service, key, certificate) for key, certificate, _ in made]
    first, second, wrong = (port for _, port in servers)
    monkeypatch.setattr(channel, "READY_SECONDS", 1.0)
    monkeypatch.setenv("CORRAL_TOKEN", "t0ken")
    try:
        asked = ["--server", f"127.0.0.1:{first},localhost:{second}", "--ca", str(trusted), "list"]
        assert main(asked) == errors.OK
        servers[0][0].stop(None).wait()
        assert main(asked) == errors.OK, "the other replica, by its own name"
        for address in (f"localhost:{wrong}", f"127.0.0.1:{second}"):
            assert main(["--server", address, "--ca", str(trusted), "list"]) == errors.UNAVAILABLE, address
    finally:
        for server, _ in servers:
            server.stop(None).wait()
    assert service.seen == ["Bearer t0ken"] * 2


def test_a_server_of_tls_that_is_called_in_plain_is_told_so(
    service: Listening, tmp_path: Path, capsys: pytest.CaptureFixture[str], address: str
) -> None:
    key, certificate, trusted = self_signed(tmp_path)
    server, port = over_tls(service, key, certificate)
    try:
        assert main(["--server", f"127.0.0.1:{port}", "list"]) == errors.UNAVAILABLE
        assert f"127.0.0.1:{port} speaks TLS: name its certificate authority with --ca" in capsys.readouterr().err
    finally:
        server.stop(None).wait()
    assert main(["--server", f"127.0.0.1:{port}", "list"]) == errors.UNAVAILABLE
    assert "speaks TLS" not in capsys.readouterr().err, "nobody is there"
    assert not channel.speaks_tls(address), "one that is called rightly"
    assert main(["--server", address, "--ca", str(trusted), "list"]) == errors.UNAVAILABLE
    assert f"{address} speaks no TLS, which --ca or $CORRAL_CA asks for" in capsys.readouterr().err
