"""Who may call what: the table, tokens, sessions, certificates and their rotation, on the real service."""

from __future__ import annotations

import datetime
import hashlib
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path

import grpc
import httpx
import pytest
from corral.v1 import (
    catalog_pb2,
    deploy_pb2,
    deploy_pb2_grpc,
    fleet_pb2,
    fleet_pb2_grpc,
    group_pb2,
    project_pb2,
    project_pb2_grpc,
    secret_pb2,
)
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from grpc_channelz.v1.channelz_pb2 import DESCRIPTOR as CHANNELZ
from grpc_health.v1 import health_pb2, health_pb2_grpc

from service.app.identity import OPEN, RANK
from service.config.file import ConfigError, parse
from service.contract.roles import ROLES
from tests.support.builders import ENTRY, ZONE
from tests.support.process import CONFIGURATION, CorralProcess

TOKENS = """
[identity]
anonymous = false
"""


def token(name: str, role: str, project: str = "default") -> str:
    digest = hashlib.sha256(f"secret of {name}".encode()).hexdigest()
    return f'[[tokens]]\nname = "{name}"\nsha256 = "{digest}"\nrole = "{role}"\nproject = "{project}"\n'


def bearer(name: str) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer secret of {name}"),)


class Authority:
    """A certificate authority for one test."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test authority")])
        certificate = self._builder(self.name, self.key.public_key(), True).sign(self.key, hashes.SHA256())
        self.pem = certificate.public_bytes(serialization.Encoding.PEM)
        self.path = directory / "ca.pem"
        self.path.write_bytes(self.pem)

    def _builder(self, subject: x509.Name, public: ec.EllipticCurvePublicKey, ca: bool) -> x509.CertificateBuilder:
        now = datetime.datetime.now(datetime.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self.name)
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(hours=1))
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        )

    def issue(self, name: str, *names: x509.GeneralName) -> tuple[bytes, bytes]:
        """(certificate, key) as PEM."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        builder = self._builder(subject, key.public_key(), False)
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        certificate = builder.sign(self.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        return certificate, private

    def serve(self) -> None:
        """A fresh certificate for the service, put where its configuration says."""
        certificate, key = self.issue("corral", x509.DNSName("localhost"), x509.DNSName("corral.test"))
        (self.directory / "key.pem").write_bytes(key)
        (self.directory / "cert.pem").write_bytes(certificate)


def test_every_method_of_every_service_has_its_role() -> None:
    modules = (deploy_pb2, fleet_pb2, catalog_pb2, project_pb2, secret_pb2)
    files = (*(module.DESCRIPTOR for module in modules), health_pb2.DESCRIPTOR, CHANNELZ)
    methods = {f"{s.full_name}/{m.name}" for f in files for s in f.services_by_name.values() for m in s.methods}
    reflection = {f"grpc.reflection.{v}.ServerReflection/ServerReflectionInfo" for v in ("v1", "v1alpha")}
    assert methods | reflection == set(ROLES)
    assert {role for role in ROLES.values() if role != OPEN} <= set(RANK)
    assert {path for path, role in ROLES.items() if role == OPEN} == {p for p in ROLES if p.startswith("grpc.health.")}


@pytest.fixture(scope="module")
def corral(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CorralProcess]:
    tokens = token("root", "admin") + token("ann", "operator", "a") + token("bob", "operator", "b")
    tokens += token("eve", "viewer", "a")
    process = CorralProcess(tmp_path_factory.mktemp("corral"), CONFIGURATION + TOKENS + tokens)
    process.start()
    yield process
    process.stop()


def deploy(corral: CorralProcess, who: str) -> str:
    node = group_pb2.NodeSpec(uuid=ENTRY, zone_uuid=ZONE, cpu_num=1, memory_size=1 << 30)
    request = deploy_pb2.DeployDistributedModelServiceRequest(
        name=f"of {who}", model_services=[node], service_creation_strategy="parallel"
    )
    stream = corral.groups.DeployDistributedModelService(request, metadata=bearer(who), timeout=30)
    return corral.follow(stream).uuid


def _ended(call: Callable[..., Iterable[object]], request: object) -> None:
    list(call(request, metadata=bearer("bob")))


def code(call: Callable[[], object]) -> grpc.StatusCode:
    with pytest.raises(grpc.RpcError) as refused:
        call()
    return refused.value.code()


def test_without_credentials_nothing_answers_but_health(corral: CorralProcess) -> None:
    request = deploy_pb2.ListInstanceGroupsRequest()
    assert code(lambda: corral.groups.ListInstanceGroups(request)) is grpc.StatusCode.UNAUTHENTICATED
    wrong = (("authorization", "Bearer wrong"),)
    assert code(lambda: corral.groups.ListInstanceGroups(request, metadata=wrong)) is grpc.StatusCode.UNAUTHENTICATED
    basic = (("authorization", "Basic cm9vdDo="),)
    assert code(lambda: corral.groups.ListInstanceGroups(request, metadata=basic)) is grpc.StatusCode.UNAUTHENTICATED
    with grpc.insecure_channel(f"127.0.0.1:{corral.port}") as channel:
        answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
    assert answer.status == health_pb2.HealthCheckResponse.SERVING


def test_a_role_that_is_too_low_is_told_before_anything_is_looked_up(corral: CorralProcess) -> None:
    missing = deploy_pb2.DeleteInstanceGroupRequest(uuid="0" * 32)
    delete = corral.groups.DeleteInstanceGroup
    assert code(lambda: list(delete(missing, metadata=bearer("eve")))) is grpc.StatusCode.PERMISSION_DENIED
    assert code(lambda: list(delete(missing, metadata=bearer("ann")))) is grpc.StatusCode.NOT_FOUND
    with grpc.insecure_channel(f"127.0.0.1:{corral.port}") as channel:
        fleet = fleet_pb2_grpc.FleetServiceStub(channel)
        hosts = fleet_pb2.ListHostsRequest()
        assert code(lambda: fleet.ListHosts(hosts, metadata=bearer("ann"))) is grpc.StatusCode.PERMISSION_DENIED
        assert len(fleet.ListHosts(hosts, metadata=bearer("root")).inventories) == 1


def test_a_tenant_sees_and_touches_what_is_its_own(corral: CorralProcess) -> None:
    uuid = deploy(corral, "ann")
    get = deploy_pb2.GetInstanceGroupRequest(uuid=uuid)
    assert corral.groups.GetInstanceGroup(get, metadata=bearer("eve")).inventory.uuid == uuid
    assert corral.groups.GetInstanceGroup(get, metadata=bearer("root")).inventory.uuid == uuid
    assert code(lambda: corral.groups.GetInstanceGroup(get, metadata=bearer("bob"))) is grpc.StatusCode.NOT_FOUND
    listed = corral.groups.ListInstanceGroups(deploy_pb2.ListInstanceGroupsRequest(), metadata=bearer("bob"))
    assert list(listed.inventories) == []
    delete = deploy_pb2.DeleteInstanceGroupRequest(uuid=uuid)
    stop = deploy_pb2.StopInstanceGroupRequest(uuid=uuid)
    scale = deploy_pb2.ScaleInstanceGroupRequest(uuid=uuid, remove_instance_uuids=["0" * 32])
    update = deploy_pb2.UpdateInstanceGroupRequest(uuid=uuid, name="mine now")
    watch = deploy_pb2.WatchInstanceGroupsRequest(uuid=uuid)
    groups = corral.groups
    for call, request in (
        (groups.DeleteInstanceGroup, delete),
        (groups.StopInstanceGroup, stop),
        (groups.ScaleInstanceGroup, scale),
        (groups.WatchInstanceGroups, watch),
    ):
        stream: Callable[..., Iterable[object]] = call
        assert code(partial(_ended, stream, request)) is grpc.StatusCode.NOT_FOUND
    assert code(lambda: groups.UpdateInstanceGroup(update, metadata=bearer("bob"))) is grpc.StatusCode.NOT_FOUND
    assert corral.groups.GetInstanceGroup(get, metadata=bearer("ann")).inventory.status == "Running"


def test_a_login_session_is_a_bearer_token_too(corral: CorralProcess) -> None:
    login = {"logInByAccount": {"accountName": "alice", "password": hashlib.sha512(b"secret").hexdigest()}}
    session = httpx.put(f"{corral.http}/zstack/v1/accounts/login", json=login, timeout=60).json()["inventory"]["uuid"]
    request = deploy_pb2.ListInstanceGroupsRequest()
    shown = (("authorization", f"Bearer {session}"),)
    assert corral.groups.ListInstanceGroups(request, metadata=shown).revision >= 0


def test_certificates_identify_callers_and_a_new_server_certificate_is_used_without_a_restart(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    authority.serve()
    identity = """
[server.tls]
certificate = "cert.pem"
key = "key.pem"
client_ca = "ca.pem"
[[certificates]]
name = "billing"
uri = "spiffe://test/billing"
role = "viewer"
project = "red"
"""
    corral = CorralProcess(tmp_path, CONFIGURATION + TOKENS + identity)
    corral.start()
    try:
        known = authority.issue("billing", x509.UniformResourceIdentifier("spiffe://test/billing"))
        unknown = authority.issue("other", x509.UniformResourceIdentifier("spiffe://test/other"))
        assert lists(corral, authority, known) is None
        with calling(corral, authority, known) as channel:
            usage = project_pb2_grpc.ProjectServiceStub(channel).GetUsage(project_pb2.GetUsageRequest(), timeout=10)
        assert [one.project for one in usage.inventories] == ["red"]
        assert lists(corral, authority, unknown) is grpc.StatusCode.UNAUTHENTICATED
        other = tmp_path / "other"
        other.mkdir()
        renewed = Authority(other)
        assert lists(corral, renewed, None) is grpc.StatusCode.UNAVAILABLE, "the handshake fails"
        certificate, key = renewed.issue("corral", x509.DNSName("localhost"))
        (tmp_path / "key.pem").write_bytes(key)
        (tmp_path / "cert.pem").write_bytes(certificate)
        assert lists(corral, renewed, known) is None
    finally:
        corral.stop()


def calling(corral: CorralProcess, authority: Authority, client: tuple[bytes, bytes] | None) -> grpc.Channel:
    """A channel of who shows this certificate, and trusts this authority."""
    certificate, key = client or (None, None)
    credentials = grpc.ssl_channel_credentials(authority.pem, key, certificate)
    options = (("grpc.ssl_target_name_override", "localhost"),)
    return grpc.secure_channel(f"127.0.0.1:{corral.port}", credentials, options)


def lists(corral: CorralProcess, authority: Authority, client: tuple[bytes, bytes] | None) -> grpc.StatusCode | None:
    """The code with which a listing is refused by this client, trusting this authority; None where it is answered."""
    with calling(corral, authority, client) as channel:
        stub = deploy_pb2_grpc.DistributedModelServiceStub(channel)
        try:
            stub.ListInstanceGroups(deploy_pb2.ListInstanceGroupsRequest(), timeout=10)
        except grpc.RpcError as error:
            return error.code()
    return None


@pytest.mark.parametrize(
    ("server", "problem"),
    [
        ('grpc = "192.0.2.1:1"', "server.grpc"),
        ('grpc = "192.0.2.1:1"\n[server.tls]\ncertificate = "a"\nkey = "b"', "server.tls.certificate"),
        ('grpc = "127.0.0.1:1"\nadmin = "192.0.2.1:2"', "server.admin"),
    ],
)
def test_a_listener_that_others_can_reach_needs_tls_and_identity(server: str, problem: str, tmp_path: Path) -> None:
    text = f"[server]\n{server}\n" + CONFIGURATION
    with pytest.raises(ConfigError) as refused:
        parse(text, tmp_path)
    assert any(line.startswith(problem) for line in refused.value.problems)
    if "tls" not in server:
        parse(text.replace("[server]", "[server]\ninsecure = true"), tmp_path)
