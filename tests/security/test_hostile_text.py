"""Hostile text in every field that takes text, by all three faces: refused with its field's name, or kept faithfully.
Nothing is run or opened, and the hypervisor's XML stays well-formed."""

from __future__ import annotations

import json
import os
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import grpc
import httpx
import pytest
from corral.v1 import limits_pb2

from service.domain.catalog import Image
from service.drivers.base import HostRejected
from service.drivers.libvirt.domain_xml import Boot, Platform, check_spec, machine_xml
from tests.security.service import METHODS, ZONE, Client, deploy_request, json_client, log_in, node, request_of
from tests.service.drivers.libvirt.machines import specification
from tests.support.process import CorralProcess

REFUSED = grpc.StatusCode.INVALID_ARGUMENT
MODEL = "corral.v1.DistributedModelService/"
FLEET = "corral.v1.FleetService/"
CATALOG = "corral.v1.CatalogService/"
MARK = "corral-was-here"
# What no text field takes: XML 1.0 forbids it, or it is a control character.
FORBIDDEN = {
    "null": "a\x00b",
    "vertical tab": "a\x0bb",
    "escape": "a\x1b[2Jb",
    "delete": "a\x7fb",
    "C1 control": "a\x9bb",
    "not a character": "a\ufffeb",
    "not a character either": "a\uffffb",
}
# What one line may hold, and means nothing to anybody.
KEPT = {
    "markup": "<a b='c'>&amp;]]><!-- -->",
    "entity": "<!DOCTYPE a [<!ENTITY b SYSTEM 'file:///etc/passwd'>]>&b;",
    "right to left": "a\u202egnp.exe\u2066",
    "joined": "a\u200d\u0301\U0001f468\u200d\U0001f469",
    "SQL": "'; DROP TABLE groups; --",
    "shell": f"$(touch {MARK}) `touch {MARK}` ; touch {MARK}",
    "formats": "%s%n{0}{0.__class__}${jndi:ldap://x}",
    "path": "../../../../etc/passwd",
    "uri": f"qemu+ssh://h/system?command=touch%20{MARK}&socket=/x&netcat=/bin/sh",
    "test driver": "test:///etc/passwd",
    "like": "%_\\",
    "256 levels": "[" * 255,
}
LINES = {"two lines": "a\nb", "carriage return": "a\rb", "line separator": "a\u2028b", "next line": "a\x85b"}
HOSTILE_ADDRESSES = {
    "command": f"h?command=touch {MARK}",
    "socket": "h/system?socket=/x",
    "netcat": "h&netcat=/bin/sh",
    "test driver": "test:///etc/passwd",
    "user": "root@h",
    "option of ssh": f"-oProxyCommand=touch {MARK}",
    "port": "h:22",
    "fragment": "h#x",
    "escaped": "h%2f%3fcommand",
    "newline": "h\nProxyCommand x",
    "brackets": "[::1]?x",
    "scope": "fe80::1%eth0?x",
    "empty label": "a..b",
    "markup": "<h>",
    "space": "h x",
    "long": "h" * 64,
}


@pytest.fixture(autouse=True)
def nothing_ran(corral: CorralProcess) -> Iterator[None]:
    yield
    for place in (corral.directory, Path.cwd(), Path("/"), Path("/tmp"), Path.home()):
        assert MARK not in os.listdir(place)


def text_fields(path: str) -> list[Any]:
    """The text fields of a method's request, at its first level."""
    kinds = (limits_pb2.STRING_FORMAT_UNSPECIFIED, limits_pb2.STRING_FORMAT_TEXT, limits_pb2.STRING_FORMAT_LINE)
    return [
        field
        for field in request_of(METHODS[path]).DESCRIPTOR.fields
        if field.type == field.TYPE_STRING and field.GetOptions().Extensions[limits_pb2.limits].format in kinds
    ]


FIELDS = [(path, field.name) for path in METHODS for field in text_fields(path)]


def with_text(path: str, name: str, value: str) -> Any:
    """A request with one hostile field."""
    request = request_of(METHODS[path])()
    if METHODS[path].name in ("DeployDistributedModelService", "PlanDistributedModelService"):
        request.MergeFromString(deploy_request().SerializeToString())
    field = request.DESCRIPTOR.fields_by_name[name]
    if field.is_repeated:
        getattr(request, name).append(value)
    else:
        setattr(request, name, value)
    return request


@pytest.mark.parametrize(("path", "name"), FIELDS)
def test_text_that_xml_can_not_hold_is_refused_in_every_text_field(client: Client, path: str, name: str) -> None:
    for what, value in FORBIDDEN.items():
        code, text, _ = client.call(path, with_text(path, name, value), "root", most=1)
        assert code is REFUSED, (what, code)
        assert name in text, what
        assert value not in text, "and is not repeated"


@pytest.mark.parametrize(("path", "name"), FIELDS)
def test_text_of_a_megabyte_is_refused_in_every_text_field(client: Client, path: str, name: str) -> None:
    code, text, _ = client.call(path, with_text(path, name, "n" * (1 << 20)), "root", most=1)
    assert code is REFUSED, code
    assert len(text) < 8192


def test_one_line_of_any_meaning_is_kept_as_it_is(client: Client, corral: CorralProcess) -> None:
    with json_client(corral, "ann") as ann:
        for what, value in KEPT.items():
            request = deploy_request(
                name=value, description=value, user_tags=[value], model_services=[node(name=value)]
            )
            code, text, answers = client.call(f"{MODEL}DeployDistributedModelService", request, "ann", most=1000)
            assert code is grpc.StatusCode.OK, (what, text)
            final = answers[-1].event.final  # type: ignore[attr-defined]
            kept = (final.name, final.description, *final.user_tags, final.instances[0].name)
            assert set(kept) == {value}, what
            found = ann.get("/corral/v1/instance-groups", params={"name": value}).json()["inventories"]
            assert [(group["uuid"], group["name"]) for group in found] == [(final.uuid, value)], what
            tagged = client.call(f"{MODEL}ListInstanceGroups", {"tag": value}, "ann")[2][0]
            assert [group.uuid for group in tagged.inventories] == [final.uuid], what  # type: ignore[attr-defined]
            client.call(f"{MODEL}DeleteInstanceGroup", {"uuid": final.uuid}, "ann", most=1000)


@pytest.mark.parametrize("what", LINES)
def test_a_name_of_several_lines_is_refused(client: Client, corral: CorralProcess, what: str) -> None:
    value = LINES[what]
    assert client.call(f"{MODEL}DeployDistributedModelService", deploy_request(name=value), "ann")[0] is REFUSED
    assert (
        client.call(f"{CATALOG}RegisterImage", {"name": value, "format": "raw", "file_name": "x"}, "root")[0] is REFUSED
    )
    host = {"name": value, "zone_uuid": ZONE, "driver": "simulated", "connection": {"transport": "none"}}
    assert client.call(f"{FLEET}AddHost", host, "root")[0] is REFUSED
    with json_client(corral, "root") as root:
        assert root.post("/corral/v1/zones", json={"name": value}).status_code == 400


@pytest.mark.parametrize("what", HOSTILE_ADDRESSES)
@pytest.mark.parametrize("transport", ["tcp", "tls", "ssh"])
def test_a_hosts_address_can_not_be_more_than_an_address(client: Client, transport: str, what: str) -> None:
    value = HOSTILE_ADDRESSES[what]
    for part in ("address", "username"):
        if part == "username" and (transport != "ssh" or what == "empty label"):
            continue  # only ssh logs in, and a user may be called `a..b`
        connection: Mapping[str, Any] = {"transport": transport, "address": "127.0.0.1", part: value}
        host = {"name": "h", "zone_uuid": ZONE, "driver": "libvirt", "connection": connection, "validate_only": True}
        code, text, _ = client.call(f"{FLEET}AddHost", host, "root")
        assert code is REFUSED, (part, code, text)
        assert "root:x:" not in text


@pytest.mark.parametrize(
    "file", ["../corral.db", "/etc/passwd", "a/../../x", ".", "..", "-", "a/b", "\\x", "~root", "con:x"]
)
def test_an_image_is_a_file_of_the_image_store_and_of_nowhere_else(client: Client, file: str) -> None:
    for part in ("file_name", "initrd_file_name"):
        image = {"name": "i", "format": "kernel", "file_name": "kernel", part: file}
        code, text, _ = client.call(f"{CATALOG}RegisterImage", image, "root")
        assert code in (REFUSED, grpc.StatusCode.NOT_FOUND), (code, text)
        assert "root:x:" not in text


def test_the_json_face_keeps_or_refuses_the_same(corral: CorralProcess) -> None:
    body = {"modelServices": [], "serviceCreationStrategy": "parallel"}
    with json_client(corral, "ann") as ann:
        for what, value in (FORBIDDEN | LINES | {"half a character": "\ud800"}).items():
            content = json.dumps({**body, "name": value})
            answer = ann.post("/corral/v1/instance-groups", content=content)
            assert answer.status_code == 400, (what, answer.text)
            assert answer.json()["error"]["status"] == "INVALID_ARGUMENT"
            asked = ann.get("/corral/v1/instance-groups", params={"name": value.encode(errors="replace").decode()})
            assert asked.status_code in (200, 400), what
        for value in KEPT.values():
            assert ann.get("/corral/v1/instance-groups", params={"name": value}).status_code == 200
            assert ann.get(f"/corral/v1/instance-groups/{quote(value, safe='')}").status_code in (400, 404)


def test_the_zstack_face_keeps_or_refuses_the_same(corral: CorralProcess) -> None:
    headers = {"Authorization": f"OAuth {log_in(corral, 'ann-z')}"}
    one = {"uuid": node().uuid, "zoneUuid": ZONE, "cpuNum": 1, "memorySize": 1 << 28, "type": "VirtualMachine"}
    with httpx.Client(base_url=corral.http + "/zstack/v1", headers=headers, timeout=60) as ann:
        for what, value in (FORBIDDEN | LINES | KEPT).items():
            action = {"name": value, "modelServices": [one], "serviceCreationStrategy": "parallel"}
            accepted = ann.put("/ai/model-services", json={"deployDistributedModelService": action})
            ended = _ended(ann, accepted)
            if what not in KEPT:
                assert ended.status_code == 503, what
                assert ended.json()["error"]["code"] == "SYS.1007"
                continue
            assert ended.status_code == 200, (what, ended.text)
            assert ended.json()["inventory"]["name"] == value
            found = ann.get("/ai/model-services/instances/groups", params={"q": f"name={value}"})
            assert [group["name"] for group in found.json()["inventories"]] == [value], what
            uuid = ended.json()["inventory"]["uuid"]
            assert _ended(ann, ann.delete(f"/ai/model-services/instances/groups/{uuid}")).status_code == 200


def test_the_hypervisors_xml_stays_well_formed_with_all_of_it() -> None:
    plain = ElementTree.fromstring(machine_xml(specification(), Platform("qemu", "x86_64"), Boot("/k", "/i", "x")))
    shape = [element.tag for element in plain.iter()]
    for value in (FORBIDDEN | LINES | KEPT).values():
        spec = replace(
            specification(display_name=value, documents={"env": value}),
            image=Image("none", kernel_path="/k", kernel_arguments=value),
        )
        try:
            check_spec(spec)
        except HostRejected:
            assert value in FORBIDDEN.values()
            continue
        root = ElementTree.fromstring(machine_xml(spec, Platform("qemu", "x86_64"), Boot("/k", "/i", value)))
        assert [element.tag for element in root.iter()] == shape
        assert root.findtext("os/cmdline") == value


def _ended(http: httpx.Client, accepted: httpx.Response) -> httpx.Response:
    assert accepted.status_code == 202, accepted.text
    while True:
        answer = http.get(accepted.json()["location"])
        if answer.status_code != 202:
            return answer
