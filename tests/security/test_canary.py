"""Secrets that a service holds must be in nothing that it writes or answers: log at debug level, metrics, database,
events, errors, inventories, and the documents and XML of machines.

Environment variables of a member are no secrets by contract: they are stored, and handed to the guest. They are planted
all the same and must not be in the log or the metrics, which others than the tenant read. What a variable `secret://NAME`
stands for is a secret, and not in the database either: what a project has stored is there as ciphertext.
"""

from __future__ import annotations

import hashlib
import sqlite3
import ssl
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import httpx
import pytest
from corral.v1 import deploy_pb2, deploy_pb2_grpc, secret_pb2, secret_pb2_grpc
from cryptography import x509

from service.config.file import parse
from service.store.offline import backup
from tests.security import canary as canaries
from tests.security.service import bearer, deploy_request, node, process, secret
from tests.service.app.test_identity import Authority
from tests.service.drivers.libvirt.machines import specification
from tests.support.process import CorralProcess

PASSWORD = hashlib.sha512(b"canary password 7b1d").hexdigest()
ENVIRONMENT = "canary-environment-2f90"
WRONG_TOKEN = "canary-wrong-token-5c77"
WRONG_PASSWORD = hashlib.sha512(b"canary wrong 11aa").hexdigest()
TLS = '[server.tls]\ncertificate = "cert.pem"\nkey = "key.pem"\n'
SECRETS = """
[[secrets]]
name = "hf-token"
file = "hf-token"
projects = ["red"]
[[secrets]]
name = "of-the-service"
variable = "CANARY_OF_THE_SERVICE"
"""
ACCOUNT = f'[[accounts]]\nname = "canary"\npassword_sha512 = "{PASSWORD}"\nrole = "operator"\nproject = "red"\n'


@dataclass
class Told:
    """All that a service has written and answered, by where it was seen; and the secrets that it knew."""

    secrets: dict[str, str]
    texts: dict[str, str] = field(default_factory=dict)
    raw: dict[str, bytes] = field(default_factory=dict)
    """The database's own files."""

    def leaks(self, *but: str) -> list[str]:
        """`secret in place`, of all secrets but these: as they are, and in base64."""
        places = {place: text.encode() for place, text in self.texts.items()} | self.raw
        return [
            f"{name} in {place}"
            for name, value in self.secrets.items()
            if name not in but
            for place in canaries.leaks(value, places)
        ]


def _key_lines(path: Path) -> str:
    """The middle line of a private key."""
    return path.read_text().splitlines()[2]


def _database(path: Path) -> str:
    with sqlite3.connect(path) as connection:
        text = "\n".join(connection.iterdump())
    connection.close()
    return text


def _error(call: object) -> str:
    with pytest.raises(grpc.RpcError) as refused:
        call()  # type: ignore[operator]
    return f"{refused.value}\n{refused.value.trailing_metadata()}"


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Told:
    """A service that is given every kind of secret, in right and in wrong calls by all three faces."""
    directory = tmp_path_factory.mktemp("canary")
    authority = Authority(directory)
    certificate, key = authority.issue("corral", x509.DNSName("localhost"), x509.DNSName("corral.test"))
    (directory / "cert.pem").write_bytes(certificate)
    (directory / "key.pem").write_bytes(key)
    referred = {"file secret": canaries.random_canary(), "variable secret": canaries.random_canary()}
    stored = {"stored secret": canaries.random_canary(), "stored before": canaries.random_canary()}
    (directory / "hf-token").write_text(f"{referred['file secret']}\n")
    service = process(directory, ACCOUNT + TLS + SECRETS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CANARY_OF_THE_SERVICE", referred["variable secret"])
        service.start()
    result = Told({"token": secret("ann"), "key": _key_lines(directory / "key.pem"), "password": PASSWORD})
    result.secrets |= referred | stored
    result.secrets["key of secrets"] = (directory / "first.key").read_text().strip()
    result.secrets |= {"environment": ENVIRONMENT, "wrong token": WRONG_TOKEN, "wrong password": WRONG_PASSWORD}
    try:
        _store_secrets(service, authority, result)
        _talk_grpc(service, authority, result)
        _talk_http(service, authority, result)
    finally:
        service.stop()
    result.texts["log"] = service.log.read_text()
    result.texts["database"] = _database(service.database)
    backup(f"sqlite:///{service.database}", directory / "corral.db.backup")
    result.raw = {path.name: path.read_bytes() for path in directory.glob("corral.db*")}
    return result


def _store_secrets(service: CorralProcess, authority: Authority, told: Told) -> None:
    """One secret, given by gRPC and then another value by JSON, and wrong calls with them."""
    before, after = told.secrets["stored before"], told.secrets["stored secret"]
    options = (("grpc.ssl_target_name_override", "localhost"),)
    with grpc.secure_channel(f"127.0.0.1:{service.port}", grpc.ssl_channel_credentials(authority.pem), options) as c:
        stub = secret_pb2_grpc.SecretServiceStub(c)
        request = secret_pb2.CreateSecretRequest(name="stored", value=before, request_id="canary-2")
        made = stub.CreateSecret(request, metadata=bearer("ann")).inventory
        wrong = [
            secret_pb2.CreateSecretRequest(name="stored", value=before),
            secret_pb2.CreateSecretRequest(name="stored", value=after, request_id="canary-2"),
            secret_pb2.CreateSecretRequest(name="-", value=before),
            secret_pb2.CreateSecretRequest(name="lines", value=f"{before}\n{after}"),
            secret_pb2.CreateSecretRequest(name="long", value=before * 2000),
        ]
        errors = [_error(lambda r=request: stub.CreateSecret(r, metadata=bearer("ann"))) for request in wrong]
        errors.append(_error(lambda: stub.CreateSecret(wrong[0], metadata=bearer("vic"))))
        listed = str(stub.ListSecrets(secret_pb2.ListSecretsRequest(), metadata=bearer("ann")))
    told.texts["errors of secrets"] = "\n".join([listed, *errors])
    base = service.http.replace("http://127.0.0.1", "https://localhost")
    context = ssl.create_default_context(cafile=str(authority.path))
    who = {"Authorization": f"Bearer {secret('ann')}"}
    with httpx.Client(base_url=f"{base}/corral/v1", verify=context, timeout=60, headers=who) as http:
        rotate = f"/secrets/{made.uuid}:rotate"
        answers = [
            http.post(rotate, json={"value": after, "etag": made.etag}),
            http.post(rotate, json={"value": before, "etag": made.etag}),
            http.post(rotate, json={"value": {after: before}}),
            http.post("/secrets", json={"name": "other", "value": [before]}),
            http.post("/secrets", json={"name": "other", "valu": after}),
            http.post(
                "/secrets", content=f'{{"value": "{before}"'.encode(), headers={"Content-Type": "application/json"}
            ),
            http.get("/secrets", params={"value": before}),
        ]
    assert answers[0].status_code == 200
    assert all(answer.status_code >= 400 for answer in answers[1:])
    told.texts["JSON of secrets"] = "\n".join(f"{a.status_code} {dict(a.headers)} {a.text}" for a in answers)


def _talk_grpc(service: CorralProcess, authority: Authority, told: Told) -> None:
    options = (("grpc.ssl_target_name_override", "localhost"),)
    credentials = grpc.ssl_channel_credentials(authority.pem)
    with grpc.secure_channel(f"127.0.0.1:{service.port}", credentials, options) as channel:
        stub = deploy_pb2_grpc.DistributedModelServiceStub(channel)
        variables = {"HF_TOKEN": ENVIRONMENT, "A": "secret://hf-token", "B": "secret://of-the-service"}
        variables["C"] = "secret://stored"
        member = node(environment_variables=variables)
        request = deploy_request(model_services=[member], request_id="canary-1")
        events = list(stub.DeployDistributedModelService(request, metadata=bearer("ann"), timeout=60))
        assert events[-1].event.final.status == "Running", "the secrets were read, and handed over"
        told.texts["events"] = str(events)
        listing = deploy_pb2.ListInstanceGroupsRequest()
        told.texts["inventories"] = str(stub.ListInstanceGroups(listing, metadata=bearer("ann")))
        wrong = [
            (("authorization", f"Bearer {WRONG_TOKEN}"),),
            (("authorization", f"Basic {WRONG_TOKEN}"),),
            (("authorization", WRONG_TOKEN),),
            (("authorization", f"Bearer {WRONG_TOKEN}"), ("x-request-id", "a-request-id")),
        ]
        errors = [_error(lambda m=metadata: stub.ListInstanceGroups(listing, metadata=m)) for metadata in wrong]
        bad = deploy_request(model_services=[node(cpu_num=-1, environment_variables={"A B": ENVIRONMENT})])
        errors.append(_error(lambda: list(stub.DeployDistributedModelService(bad, metadata=bearer("ann")))))
        big = deploy_request(model_services=[node(cpu_num=4000, environment_variables={"A": ENVIRONMENT})])
        errors.append(_error(lambda: list(stub.DeployDistributedModelService(big, metadata=bearer("ann"), timeout=60))))
        told.texts["gRPC errors"] = "\n".join(errors)


def _talk_http(service: CorralProcess, authority: Authority, told: Told) -> None:
    base = service.http.replace("http://127.0.0.1", "https://localhost")
    context = ssl.create_default_context(cafile=str(authority.path))
    with httpx.Client(base_url=base, verify=context, timeout=60) as http:
        login = "/zstack/v1/accounts/login"
        asked = {"logInByAccount": {"accountName": "canary", "password": PASSWORD}}
        session = http.put(login, json=asked).json()["inventory"]["uuid"]
        told.secrets["session"] = session
        wrong = {"logInByAccount": {"accountName": "canary", "password": WRONG_PASSWORD}}
        groups = "/zstack/v1/ai/model-services/instances/groups"
        answers = [
            http.put(login, json=wrong),
            http.put(login, content=b'{"logInByAccount": {"password": "' + WRONG_PASSWORD.encode() + b'"'),
            http.get(groups, headers={"Authorization": f"OAuth {session}"}),
            http.get(groups, headers={"Authorization": f"OAuth {WRONG_TOKEN}"}),
            http.get(groups, headers={"Authorization": f"Bearer {WRONG_TOKEN}"}),
            http.get(f"/zstack/v1/accounts/sessions/{session}/valid"),
            http.get(f"/zstack/v1/accounts/sessions/{session}/invalid"),
            http.get(f"/zstack/v1/accounts/sessions/{session}/%00"),
            http.get("/corral/v1/instance-groups", headers={"Authorization": f"Bearer {session}"}),
            http.get("/corral/v1/instance-groups", headers={"Authorization": f"Bearer {WRONG_TOKEN}"}),
            http.get("/corral/v1/instance-groups", params={"token": session}),
            http.post("/zstack/api", json={"org.zstack.header.identity.APILogOutMsg": {"sessionUuid": session}}),
            http.get("/healthz"),
            http.get("/openapi.json"),
            http.get("/"),
        ]
        told.texts["HTTP answers"] = "\n".join(f"{a.status_code} {dict(a.headers)} {a.text}" for a in answers)
        told.texts["metrics"] = http.get("/metrics").text


def test_the_service_was_given_every_secret_and_told_at_length(told: Told) -> None:
    """A secret that was never planted could not leak: each is found where it is allowed to be."""
    assert ENVIRONMENT in told.texts["database"], "by contract, environment variables are stored as they are"
    assert len(told.secrets) == 12
    assert "secret://stored" in told.texts["database"]
    assert {"corral.db", "corral.db.backup"} <= set(told.raw)
    assert "secret://of-the-service" in told.texts["database"]
    assert "secret://" not in told.texts["log"]
    assert '"level": "debug"' in told.texts["log"]
    assert "corral_" in told.texts["metrics"]
    assert all(len(text) > 300 for text in told.texts.values())


def test_no_secret_is_in_what_the_service_writes_or_answers(told: Told) -> None:
    assert told.leaks("environment") == []


def test_environment_variables_are_neither_logged_nor_counted_nor_repeated_in_errors(told: Told) -> None:
    public = {place: told.texts[place] for place in ("log", "metrics", "gRPC errors", "HTTP answers", "events")}
    assert Told({"environment": ENVIRONMENT}, public).leaks() == []


def test_a_machines_documents_and_xml_are_made_of_the_request_alone() -> None:
    """There is no way for an identity into a machine: its specification has no field of a caller."""
    spec = specification()
    named = {name for part in (spec, spec.identity, spec.image) for name in part.__dataclass_fields__}
    assert not named & {"principal", "project", "caller", "token", "session", "account", "password", "authorization"}


def test_a_configuration_that_is_refused_does_not_repeat_its_secrets(tmp_path: Path) -> None:
    text = f'[[accounts]]\nname = "x"\npassword_sha512 = "{PASSWORD}!"\nrole = "admin"\n'
    text += f'[[tokens]]\nname = "y"\nsha256 = "{WRONG_TOKEN}"\nrole = "admin"\n'
    text += '[store]\nurl = "postgresql://u:canary-database-91@h:1/x y"\n'
    with pytest.raises(Exception) as refused:  # noqa: PT011 - whatever it is, it is shown to whoever starts the service
        parse(text, tmp_path)
    shown = str(refused.value) + str(getattr(refused.value, "problems", ""))
    for value in (PASSWORD, WRONG_TOKEN, "canary-database-91"):
        assert value not in shown
