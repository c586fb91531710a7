"""Certificates that are replaced while the service runs: new connections of both listeners get them, old ones stay."""

from __future__ import annotations

import asyncio
import socket
import ssl
from pathlib import Path
from unittest.mock import patch

import grpc
import pytest
from cryptography import x509
from grpc_health.v1 import health_pb2, health_pb2_grpc

from service.rpc import tls
from tests.support.certificates import certificate
from tests.support.whole import Whole, config_text, whole

pytestmark = pytest.mark.asyncio


def _text() -> str:
    tls = '[server.tls]\ncertificate = "server.pem"\nkey = "server.key"\n'
    return config_text(1).replace("[store]", f"{tls}[store]", 1)


def _shown(address: str) -> bytes:
    """The certificate that a new connection is shown, as PEM."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2", "http/1.1"])
    host, _, port = address.rpartition(":")
    with (
        socket.create_connection((host, int(port)), timeout=30) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as secured,
    ):
        return ssl.DER_cert_to_PEM_cert(secured.getpeercert(binary_form=True) or b"").encode()


async def _both(lab: Whole) -> set[bytes]:
    addresses = (str(lab.service.rpc.address), lab.http_address)
    return {await asyncio.to_thread(_shown, address) for address in addresses}


def _rename_into(directory: Path, name: str, content: bytes) -> None:
    (directory / f"{name}.new").write_bytes(content)
    (directory / f"{name}.new").rename(directory / name)


async def test_a_renamed_pair_is_shown_to_new_connections_and_a_half_one_is_not(tmp_path: Path) -> None:
    (first, first_key), (second, second_key) = certificate(), certificate()
    _rename_into(tmp_path, "server.pem", first)
    _rename_into(tmp_path, "server.key", first_key)
    with patch("service.process.TLS_POLL_SECONDS", 0.02):
        async with whole(tmp_path, _text()) as lab:
            assert await _both(lab) == {first}
            trusting = grpc.ssl_channel_credentials(root_certificates=first)
            target = f"localhost:{lab.service.rpc.address.port}"
            async with grpc.aio.secure_channel(target, trusting) as before:
                health = health_pb2_grpc.HealthStub(before)
                await health.Check(health_pb2.HealthCheckRequest())
                _rename_into(tmp_path, "server.key", second_key)
                assert await _both(lab) == {first}  # the two do not belong together yet
                _rename_into(tmp_path, "server.pem", second)
                async with asyncio.timeout(60):
                    while await _both(lab) != {second}:
                        pass
                await health.Check(health_pb2.HealthCheckRequest())  # on the connection that there was
            ends = x509.load_pem_x509_certificate(second).not_valid_after_utc.timestamp()
            name = "corral_tls_certificate_not_after_timestamp_seconds"
            labels = {"certificate": str(tmp_path / "server.pem")}
            assert lab.service.metrics.registry.get_sample_value(name, labels) == ends


async def test_a_pair_that_is_replaced_by_halves_once_more_is_read_again(tmp_path: Path) -> None:
    (first, first_key), (second, second_key) = certificate(), certificate()
    _rename_into(tmp_path, "server.pem", first)
    _rename_into(tmp_path, "server.key", first_key)
    files = tls.Reloading(tmp_path / "server.pem", tmp_path / "server.key", None)
    context = tls.context(files)
    _rename_into(tmp_path, "server.key", second_key)
    tls.refresh(context, files)  # as if the pair had been whole a moment before
    assert not files.changed(), "it is no pair yet"
    _rename_into(tmp_path, "server.pem", second)
    assert files.changed()
    tls.refresh(context, files)
    assert not files.changed()
