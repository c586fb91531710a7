"""A host's address becomes a URI that can do nothing but connect."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.domain.fleet import HostAddress
from service.drivers.base import HostRejected
from service.drivers.libvirt.addressing import Options, Route, connection_uri, migration_route, options_of

HARMFUL = [
    "h?command=/bin/sh",
    "h/system?netcat=/bin/sh",
    "h&socket=/x",
    "h#x",
    "user@h",
    "h%2f",
    "h\n",
    "h h",
    "",
    "-oProxyCommand=x",
    "[::1]?x",
]


@pytest.mark.parametrize(
    ("address", "uri"),
    [
        (HostAddress("libvirt"), "qemu:///system"),
        (HostAddress("libvirt", socket="/run/a b"), None),
        (HostAddress("libvirt", socket="/run/x.sock"), "qemu+unix:///system?socket=/run/x.sock"),
        (HostAddress("libvirt", "tcp", "10.0.0.1"), "qemu+tcp://10.0.0.1/system"),
        (HostAddress("libvirt", "tls", "hv1.example.org", 16514), "qemu+tls://hv1.example.org:16514/system"),
        (HostAddress("libvirt", "tcp", "fd00::1", 1), "qemu+tcp://[fd00::1]:1/system"),
        (HostAddress("libvirt", "ssh", "hv1", username="corral"), "qemu+ssh://corral@hv1/system?no_tty=1"),
        (
            HostAddress("libvirt", "ssh", "hv1", options={"ssh_key": "/etc/corral/key"}),
            "qemu+ssh://hv1/system?no_tty=1&keyfile=/etc/corral/key",
        ),
        (HostAddress("libvirt", "test"), "test:///default"),
        (HostAddress("libvirt", "test", socket="/srv/node.xml"), "test:///srv/node.xml"),
        (HostAddress("libvirt", "telnet", "hv1"), None),
        (HostAddress("libvirt", "tcp", "hv1", 70000), None),
    ],
)
def test_fields_become_a_uri_or_are_refused(address: HostAddress, uri: str | None) -> None:
    if uri is None:
        with pytest.raises(HostRejected):
            connection_uri(address)
    else:
        assert connection_uri(address) == uri


@pytest.mark.parametrize("harmful", HARMFUL)
@pytest.mark.parametrize("transport", ["tcp", "tls", "ssh"])
def test_an_address_can_not_carry_parameters(transport: str, harmful: str) -> None:
    with pytest.raises(HostRejected) as refusal:
        connection_uri(HostAddress("libvirt", transport, harmful))
    assert refusal.value.code == "bad_request"
    assert harmful not in refusal.value.public or not harmful


@pytest.mark.parametrize("harmful", [h for h in HARMFUL if h])
def test_a_user_name_can_not_carry_parameters(harmful: str) -> None:
    with pytest.raises(HostRejected):
        connection_uri(HostAddress("libvirt", "ssh", "hv1", username=harmful))


@given(st.text(max_size=60), st.sampled_from(["unix", "tcp", "tls", "ssh", "test"]))
def test_no_field_ever_adds_a_parameter(text: str, transport: str) -> None:
    for address in (
        HostAddress("libvirt", transport, text),
        HostAddress("libvirt", transport, "hv1", socket=text),
        HostAddress("libvirt", transport, "hv1", username=text),
    ):
        try:
            uri = connection_uri(address)
        except HostRejected:
            continue
        query = uri.partition("?")[2]
        assert {part.partition("=")[0] for part in query.split("&") if part} <= {"socket", "no_tty", "keyfile"}
        assert "#" not in uri
        assert "%" not in uri


def test_options_have_defaults_and_are_checked() -> None:
    assert options_of(HostAddress("libvirt")) == Options()
    chosen = {"pool": "fast", "virt_type": "kvm", "translation_cache_mib": "64"}
    assert options_of(HostAddress("libvirt", options=chosen)).translation_cache_mib == 64
    own = options_of(HostAddress("libvirt", options={"dedicated_cpus": "true", "emulator_cpus": "0-1,8"}))
    assert (own.dedicated_cpus, own.emulator_cpus, own.huge_page) == (True, (0, 1, 8), 0)


@pytest.mark.parametrize(
    "options",
    [
        {"virt_type": "xen"},
        {"pool": "../etc"},
        {"pool_path": "relative"},
        {"translation_cache_mib": "-1"},
        {"translation_cache_mib": "many"},
        {"uri": "test:///etc/passwd"},
        {"migration_address": "hv2/?command=x"},
        {"migration_transport": "ssh"},
    ],
)
def test_a_wrong_option_is_named(options: dict[str, str]) -> None:
    with pytest.raises(HostRejected, match=next(iter(options))):
        options_of(HostAddress("libvirt", options=options))


def test_a_way_for_live_moves_is_the_hosts_own_or_the_one_that_its_options_tell() -> None:
    assert migration_route(HostAddress("libvirt", "tcp", "hv1", 1234)) == Route(
        "qemu+tcp://hv1:1234/system", "tcp://hv1"
    )
    assert migration_route(HostAddress("libvirt", "tls", "fd00::1")) == Route("qemu+tls://[fd00::1]/system", "")
    told = {"migration_transport": "tcp", "migration_address": "10.0.0.2"}
    assert migration_route(HostAddress("libvirt", "unix", options=told)) == Route(
        "qemu+tcp://10.0.0.2/system", "tcp://10.0.0.2"
    )
    assert migration_route(HostAddress("libvirt", "ssh", "hv1", 22, options={"migration_transport": "tls"})) == Route(
        "qemu+tls://hv1/system", ""
    )
    for address in (HostAddress("libvirt"), HostAddress("libvirt", "ssh", "hv1"), HostAddress("libvirt", "test")):
        assert migration_route(address) is None
