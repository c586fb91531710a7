"""Laws of validation: canonical forms are stable, what passes obeys the declared limits, the rest is named."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from typing import Any

import pytest
from corral.v1 import catalog_pb2, deploy_pb2, fleet_pb2, group_pb2, limits_pb2
from hypothesis import given, settings
from hypothesis import strategies as st

from service.contract import text, validation
from service.errors import InvalidArgument
from tests.service.rpc.lab import deploy, node

UUID = "a" * 32


def paths(message: Any) -> list[str]:
    """The paths that a message is refused with; empty where it is accepted."""
    try:
        validation.check(message)
    except InvalidArgument as error:
        return [violation.field for violation in error.violations]
    return []


def limits(format: int, **more: Any) -> limits_pb2.FieldLimits:
    values: Any = {"format": format, **more}
    return limits_pb2.FieldLimits(**values)


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=60))
def test_text_that_is_accepted_survives_xml_unchanged(value: str) -> None:
    if text.problem(value, limits(limits_pb2.STRING_FORMAT_LINE)) is None:
        element = ElementTree.Element("name")
        element.text = value
        assert (ElementTree.fromstring(ElementTree.tostring(element)).text or "") == value
        assert len(value.splitlines()) <= 1


@settings(max_examples=200, deadline=None)
@given(st.uuids(), st.booleans(), st.booleans())
def test_every_way_to_write_a_uuid_becomes_the_same_one(uuid: Any, dashed: bool, capital: bool) -> None:
    written = str(uuid) if dashed else uuid.hex
    assert text.canonical_uuid(written.upper() if capital else written) == uuid.hex


@pytest.mark.parametrize(
    "value", ["a" * 31, "a" * 33, "g" * 32, "a-" * 16, "ａ" * 32, "a" * 32 + "\n", "{" + "a" * 32 + "}"]
)
def test_what_is_no_uuid_is_refused(value: str) -> None:
    assert text.problem(text.canonical_uuid(value), limits(limits_pb2.STRING_FORMAT_UUID)) is not None


@pytest.mark.parametrize("value", ["h1.example", "10.0.0.1", "::1", "fe80::1%eth0", "a-b.c"])
def test_host_addresses_are_accepted(value: str) -> None:
    assert text.problem(value, limits(limits_pb2.STRING_FORMAT_HOST_ADDRESS)) is None


@pytest.mark.parametrize(
    "value",
    ["h?command=x", "h/system", "user@h", "h:22", "qemu+ssh://h/system", "-oProxyCommand=x", "a b", "..", "h#", ""],
)
def test_what_could_carry_a_command_in_a_uri_is_no_host_address(value: str) -> None:
    assert text.problem(value, limits(limits_pb2.STRING_FORMAT_HOST_ADDRESS)) is not None


def test_a_check_leaves_a_good_request_in_its_canonical_form() -> None:
    request = deploy(name=" n ", model_services=[node(uuid="F" * 32, zone_uuid="")])
    validation.check(request)
    once = request.SerializeToString(deterministic=True)
    validation.check(request)
    assert request.SerializeToString(deterministic=True) == once
    assert (request.name, request.model_services[0].uuid) == ("n", "f" * 32)


def test_a_check_never_sets_a_field_that_was_absent() -> None:
    request = deploy(model_services=[{"uuid": UUID}])
    validation.check(request)
    assert not request.model_services[0].HasField("cpu_num")
    assert not request.HasField("placement_policy")


def test_unknown_fields_are_ignored() -> None:
    extended = deploy().SerializeToString() + b"\xfa\x3f\x03abc"
    assert paths(deploy_pb2.DeployDistributedModelServiceRequest.FromString(extended)) == []


def test_values_of_variables_keep_their_white_space() -> None:
    request = deploy(model_services=[node(environment_variables={"A": "  two\nlines  "})])
    validation.check(request)
    assert request.model_services[0].environment_variables["A"] == "  two\nlines  "


def scale(**fields: Any) -> deploy_pb2.ScaleInstanceGroupRequest:
    return deploy_pb2.ScaleInstanceGroupRequest(uuid=UUID, **fields)


ACROSS = [
    (scale(), ["model_services"]),
    (scale(model_services=[group_pb2.NodeSpec(uuid=UUID)]), []),
    (scale(model_services=[group_pb2.NodeSpec(uuid=UUID)], remove_instance_uuids=[UUID]), ["remove_instance_uuids"]),
    (
        scale(model_services=[group_pb2.NodeSpec(uuid=UUID, is_initial_node=True)]),
        ["model_services[0].is_initial_node"],
    ),
    (deploy_pb2.UpdateInstanceGroupRequest(uuid=UUID, update_mask={"paths": ["name"]}), ["name"]),  # type: ignore[arg-type]
    (deploy_pb2.UpdateInstanceGroupRequest(uuid=UUID, update_mask={"paths": ["yaml"]}), ["update_mask"]),  # type: ignore[arg-type]
    (fleet_pb2.AddHostRequest(name="h", zone_uuid=UUID, driver="libvirt"), ["connection"]),
    (
        fleet_pb2.AddHostRequest(
            name="h", zone_uuid=UUID, driver="libvirt", connection=fleet_pb2.HostConnection(transport="ssh")
        ),
        ["connection.address"],
    ),
    (
        fleet_pb2.AddHostRequest(
            name="h",
            zone_uuid=UUID,
            driver="libvirt",
            connection=fleet_pb2.HostConnection(transport="ssh", address="h?command=/bin/sh"),
        ),
        ["connection.address"],
    ),
    (
        fleet_pb2.UpdateHostRequest(
            uuid=UUID, resource_policies=[fleet_pb2.ResourcePolicy(resource="vcpu", overcommit_ratio=0)]
        ),
        ["resource_policies[0].overcommit_ratio"],
    ),
    (catalog_pb2.CreateModelServiceRequest(name="m"), ["image_uuid"]),
    (
        catalog_pb2.CreateModelServiceRequest(name="m", image_uuid=UUID, ports={"service": 70000}),
        ["ports[service]"],
    ),
    (
        catalog_pb2.RegisterImageRequest(name="i", format="raw", file_name="f", sha256="x"),
        ["sha256"],
    ),
]


@pytest.mark.parametrize(("message", "expected"), ACROSS, ids=lambda v: type(v).__name__)
def test_rules_across_fields_name_the_field(message: Any, expected: list[str]) -> None:
    assert paths(message) == expected


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=40))
def test_what_a_violation_says_is_one_printable_line_whatever_was_sent(value: str) -> None:
    request = deploy(service_creation_strategy=value, model_services=[node(type=value, labels={value: value})])
    try:
        validation.check(request)
    except InvalidArgument as error:
        for violation in error.violations:
            assert re.fullmatch(r"[^\x00-\x1f\x7f]*", violation.field + violation.description)
