"""The configuration file: what it becomes, and that every mistake is named by its key."""

from __future__ import annotations

import json
import resource
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.config import schema
from service.config.file import Config, ConfigError, load, parse
from service.config.values import affordable, parse_listen_address, parse_size
from service.domain.fleet import MEMORY, VCPU, Fencing
from service.listening import ListenAddress
from tests.support import ROOT

ZONE = "7a007a391d483c9f843bf1df4b7e5d8f"
SMALL = f"""
[[zones]]
uuid = "{ZONE}"
name = "zone-1"

[[hosts]]
name = "sim-1"
zone = "zone-1"
driver = "simulated"
transport = "test"
capacity = {{ vcpu = 8, memory = "16GiB" }}

[[images]]
name = "guest"
kernel = "vmlinuz"

[[model_services]]
uuid = "f1e13583-5fee-363c-9f57-ed8232023886"
name = "default"
image = "guest"
"""


def config(extra: str = "", *, base: str = SMALL) -> Config:
    return parse(extra + base, Path("/etc/corral"))


def problems(text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        parse(text, Path("/etc/corral"))
    return "\n".join(caught.value.problems)


@pytest.mark.parametrize(
    ("content", "declared", "wrong"),
    [
        (b"QFI\xfb" + bytes(4096), "raw", "is a qcow2 disk"),
        (b"plain", "qcow2", "is not a qcow2 disk"),
        (b"QFI\xfb\0\0\0\3" + bytes(7) + b"\1" + bytes(90), "qcow2", "is a qcow2 disk with a backing file"),
        (b"KDMV" + bytes(4096), "raw", "is a VMDK disk"),
        (b"", "raw", "is empty"),
    ],
)
def test_images_of_the_file_are_looked_at_as_those_of_calls_are(
    tmp_path: Path, content: bytes, declared: str, wrong: str
) -> None:
    (tmp_path / "disk").write_bytes(content)
    text = SMALL.replace('kernel = "vmlinuz"', f'disk = "disk"\ndisk_format = "{declared}"')
    path = tmp_path / "corral.toml"
    path.write_text(text.replace('driver = "simulated"\ntransport = "test"', 'driver = "libvirt"'))
    with pytest.raises(ConfigError) as refused:
        load(path)
    assert refused.value.problems == (f"images[0]: {tmp_path / 'disk'} {wrong}",)


def test_defaults_are_loopback_listeners_and_zstacks_own_ratios() -> None:
    made = config()
    assert str(made.server.grpc) == "127.0.0.1:50051"
    assert str(made.server.http) == "127.0.0.1:8080"
    assert made.server.admin is None
    assert not made.server.insecure
    assert made.overcommit.ratios == {VCPU: Fraction(10), MEMORY: Fraction(1)}
    assert made.overcommit.reserved == {VCPU: 0, MEMORY: 1 << 30}
    assert made.store_url == "sqlite:////etc/corral/var/corral.db"


def test_hosts_images_and_catalogue_become_domain_types() -> None:
    made = config()
    host = made.hosts[0]
    assert host.zone_uuid == ZONE
    assert host.capacity_override == {"vcpu": 8, "memory": 16 << 30}
    assert made.model_services[0].uuid == "f1e135835fee363c9f57ed8232023886"
    assert made.model_services[0].image.kernel_path == "/etc/corral/vmlinuz"


def test_a_hypervisor_names_its_bmc_and_nothing_else_does() -> None:
    bmc = """
[hosts.bmc]
address = "bmc1.test"
port = 8443
username = "corral"
password_file = "/etc/corral/bmc"
ca_file = "/etc/corral/ca.pem"
system = "1"
"""
    text = SMALL.replace('driver = "simulated"\ntransport = "test"', 'driver = "libvirt"\ntransport = "unix"')

    def named(section: str, of: str = text) -> Config:
        return config(base=of.replace("\n[[images]]", f"{section}\n[[images]]"))

    host = named(bmc).hosts[0]
    assert host.bmc is not None
    assert host.bmc.fencing is Fencing.MANUAL
    address = host.bmc.address
    assert (address.address, address.port, address.username) == ("bmc1.test", 8443, "corral")
    files = {"password_file": "/etc/corral/bmc", "ca_file": "/etc/corral/ca.pem", "system": "1"}
    assert address.options == files
    pinned = named(bmc.replace('ca_file = "/etc/corral/ca.pem"', f'fingerprint = "{"a" * 64}"\nfencing = "dry"'))
    assert pinned.hosts[0].bmc is not None
    assert pinned.hosts[0].bmc.fencing is Fencing.DRY
    assert pinned.hosts[0].bmc.address.options["fingerprint"] == "a" * 64
    assert config(base=text).hosts[0].bmc is None
    for wrong, told in (
        (bmc.replace('username = "corral"', 'username = ""'), "hosts[0].bmc.username"),
        (bmc.replace('"/etc/corral/bmc"', '""'), "hosts[0].bmc.password_file"),
        (bmc + 'fingerprint = "aa"\n', "hosts[0].bmc"),
        (bmc + 'fencing = "always"\n', "hosts[0].bmc.fencing"),
    ):
        with pytest.raises(ConfigError) as refused:
            named(wrong)
        assert any(told in problem for problem in refused.value.problems), refused.value.problems
    with pytest.raises(ConfigError) as refused:
        named(bmc, SMALL)
    assert any("hosts[0].bmc: must be empty for simulated" in problem for problem in refused.value.problems)


def test_a_host_without_uuid_keeps_the_same_one_at_every_start() -> None:
    first, second = config().hosts[0], config().hosts[0]
    assert first.uuid == second.uuid
    assert len(first.uuid) == 32
    assert config('[cluster]\nid = "other"\n').hosts[0].uuid != first.uuid


def test_a_zone_may_be_named_by_its_uuid_with_dashes() -> None:
    text = SMALL.replace('zone = "zone-1"', 'zone = "7A007A39-1d48-3c9f-843b-f1df4b7e5d8f"')
    assert config(base=text).hosts[0].zone_uuid == ZONE


def test_overrides_hold_only_what_is_named() -> None:
    text = SMALL.replace('driver = "simulated"', 'driver = "simulated"\novercommit = { memory = "3/2" }')
    host = config(base=text).hosts[0]
    assert host.overcommit.ratios == {MEMORY: Fraction(3, 2)}
    assert host.overcommit.reserved == {}


def test_a_network_without_pool_offers_all_addresses_but_the_gateway() -> None:
    text = SMALL.replace(
        'name = "zone-1"\n\n',
        'name = "zone-1"\nnetwork = { kind = "bridge", source = "b", subnet = "10.0.0.0/29", gateway = "10.0.0.1" }\n',
        1,
    )
    network = config(base=text).zones[0].network
    assert (network.first_address, network.last_address) == ("10.0.0.2", "10.0.0.6")


@pytest.mark.parametrize(
    ("extra", "key", "says"),
    [
        ("[servers]\n", "servers:", "did you mean server?"),
        ('[server]\ngprc = "127.0.0.1:1"\n', "server.gprc:", "allowed: admin, drain_grace_ms, grpc"),
        ('[server]\ngrpc = "127.0.0.1"\n', "server.grpc:", "host:port"),
        ('[server]\ngrpc = "127.0.0.1:70000"\n', "server.grpc:", "0 to 65535"),
        ('[server]\ngrpc = "unix:relative"\n', "server.grpc:", "absolute"),
        ('[server]\ngrpc = "0.0.0.0:50051"\n', "server.grpc:", "insecure = true"),
        ('[server]\nhttp = "127.0.0.1:50051"\n', "server:", "different addresses"),
        ('[server]\ninsecure = "yes"\n', "server.insecure:", "boolean"),
        ("[server]\nmax_nodes = 0\n", "server.max_nodes:", "greater than or equal to 1"),
        ('[server]\nmax_message_bytes = "1KiB"\n', "server.max_message_bytes:", "65536"),
        ('[store]\nurl = "mysql://x/y"\n', "store.url:", "postgresql+psycopg"),
        ('[store]\nurl = "sqlite://var/x.db"\n', "store.url:", "three slashes"),
        ('[cluster]\nid = "a b"\n', "cluster.id:", "letters, digits"),
        ('[log]\nlevel = "loud"\n', "log.level:", "'debug', 'info', 'warning' or 'error'"),
        ("[overcommit]\ncpu = 0\n", "overcommit.cpu:", "above 0"),
        ('[overcommit]\nreserved_memory = "1 GB"\n', "overcommit.reserved_memory:", "16GiB"),
        ("[overcommit]\nreserved_memory = true\n", "overcommit.reserved_memory:", "16GiB"),
    ],
)
def test_a_wrong_value_is_named_by_its_key_with_what_is_allowed(extra: str, key: str, says: str) -> None:
    told = problems(extra + SMALL)
    assert told.startswith(key)
    assert says in told


SIMULATED = 'driver = "simulated"\ntransport = "test"'


@pytest.mark.parametrize(
    ("old", "new", "key", "says"),
    [
        ('driver = "simulated"', 'driver = "vmware"', "hosts[0].driver:", "must be one of libvirt, redfish, simulated"),
        ('driver = "simulated"', 'driver = "simulated"\nuri = "qemu:///system"', "hosts[0].uri:", "unknown key"),
        (
            'transport = "test"',
            'transport = "tcp"\naddress = "qemu://h/system?command=x"',
            "hosts[0].address:",
            "no URI",
        ),
        (SIMULATED, 'driver = "libvirt"\ntransport = "tcp"', "hosts[0].address:", "is required for tcp"),
        (
            SIMULATED,
            SIMULATED + '\noptions = { cpus = "4" }',
            "hosts[0].options:",
            "may only name bare_metal, boot_ms, busy, call_ms, clean, cpu,",
        ),
        (SIMULATED, SIMULATED + '\noptions = { cpu = "many" }', "hosts[0].options:", "'cpu' is not an amount"),
        (SIMULATED, 'driver = "libvirt"\nsocket = "/run/x?command=sh"', "hosts[0].socket:", "absolute path"),
        (
            SIMULATED,
            'driver = "libvirt"\ntransport = "tcp"\naddress = "h"\nsocket = "/run/x"',
            "hosts[0].socket:",
            "must be empty for tcp",
        ),
        ('zone = "zone-1"', 'zone = "zone-9"', "hosts[0].zone:", "known: zone-1"),
        ("vcpu = 8", "vcpu = -8", "hosts[0].capacity.vcpu:", "0 or more"),
        ('image = "guest"', 'image = "gust"', "model_services[0].image:", "known: guest"),
        ('kernel = "vmlinuz"', 'initrd = "x"', "images[0]:", "needs manifest, kernel or disk"),
        ('kernel = "vmlinuz"', 'manifest = "absent.json"', "images[0].manifest:", "make guest"),
        (
            'kernel = "vmlinuz"',
            'kernel = "k"\nsha256 = { disk = "' + "0" * 64 + '" }',
            "images[0].sha256.disk:",
            "no disk",
        ),
        (
            'name = "zone-1"\n',
            'name = "zone-1"\nnetwork = { kind = "bridge" }\n',
            "zones[0].network.source:",
            "name of a bridge",
        ),
        (
            'name = "zone-1"\n',
            'name = "zone-1"\nnetwork = { kind = "bridge", source = "b", subnet = "10.0.0.0/24", '
            'pool = "10.0.1.1-10.0.1.9" }\n',
            "zones[0].network.pool:",
            "inside 10.0.0.0/24",
        ),
        (
            'name = "zone-1"\n',
            'name = "zone-1"\nnetwork = { kind = "bridge", source = "b", subnet = "10.0.0.0/24", '
            'gateway = "10.0.0.1", pool = "10.0.0.1-10.0.0.9" }\n',
            "zones[0].network.pool:",
            "hold the gateway",
        ),
        (f'uuid = "{ZONE}"', 'uuid = "7a00"', "zones[0].uuid:", "32 hex digits"),
        (f'uuid = "{ZONE}"\n', "", "zones[0].uuid:", "missing"),
    ],
)
def test_a_wrong_entry_is_named_by_its_index_and_key(old: str, new: str, key: str, says: str) -> None:
    assert old in SMALL
    told = problems(SMALL.replace(old, new, 1))
    assert key in told
    assert says in told


def test_all_mistakes_are_told_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        parse("[server]\nmax_nodes = 0\ncolour = 1\n[overcommit]\ncpu = -1\n" + SMALL, Path("/"))
    assert len(caught.value.problems) == 3


def test_what_a_wrong_key_cannot_have_meant_is_told_beside_it() -> None:
    open_listener = '[server]\ngrpc = "0.0.0.0:50051"\n'
    assert "server.grpc: 0.0.0.0:50051 can be reached" in problems(f"{open_listener}colour = 1\n{SMALL}")
    # A certificate that is wrong, or whose key is misspelt, is no listener without one.
    for meant in ("tls = 7", "tsl = {}", 'insecure = "perhaps"', "insecur = true"):
        told = problems(f"{open_listener}{meant}\n{SMALL}")
        assert "can be reached" not in told, told
        assert "server." in told


def test_two_hosts_of_one_name_are_refused() -> None:
    host = '[[hosts]]\nname = "sim-1"\nzone = "zone-1"\ndriver = "simulated"\n'
    assert "hosts[1].name: sim-1 is taken by hosts[0]" in problems(SMALL + host)


def test_text_that_is_not_toml_and_files_that_are_not_there_are_config_errors(tmp_path: Path) -> None:
    assert "not TOML" in problems("[[zones")
    with pytest.raises(ConfigError, match="cannot be read"):
        load(tmp_path / "absent.toml")


def test_a_listener_that_others_reach_needs_an_explicit_insecure() -> None:
    made = config('[server]\ngrpc = "0.0.0.0:50051"\ninsecure = true\n')
    assert str(made.server.grpc) == "0.0.0.0:50051"


def test_boot_files_must_exist_where_a_host_is_real(tmp_path: Path) -> None:
    file = tmp_path / "corral.toml"
    file.write_text(SMALL)
    load(file)
    file.write_text(SMALL.replace('driver = "simulated"\ntransport = "test"', 'driver = "libvirt"'))
    with pytest.raises(ConfigError, match=r"images\[0\]: no file .*vmlinuz"):
        load(file)
    (tmp_path / "vmlinuz").write_bytes(b"kernel")
    assert load(file).hosts[0].address.driver == "libvirt"


def test_the_example_names_every_key_and_is_valid(tmp_path: Path) -> None:
    manifest = _write_manifest(tmp_path)
    text = (ROOT / "deploy/config.example.toml").read_text()
    for name in ("server.pem", "server.key", "clients.pem"):
        (tmp_path / name).write_text("")
    here = text.replace("/var/lib/corral/guest/guest.json", str(manifest)).replace("/etc/corral/", f"{tmp_path}/")
    made = parse(here, tmp_path)
    assert {host.address.driver for host in made.hosts} == {"libvirt", "simulated"}
    for name, field in schema.Configuration.model_fields.items():
        assert f"[{name}]" in text or f"[[{name}]]" in text, name
        section = field.annotation
        model = section if isinstance(section, type) else section.__args__[0]  # type: ignore[union-attr]
        for key in model.model_fields:
            assert f"\n{key} = " in text or f"[{name}.{key}]" in text, f"{name}.{key}"


def test_the_quickstarts_configuration_holds_the_documented_zone_and_model_service(tmp_path: Path) -> None:
    manifest = _write_manifest(tmp_path)
    text = (ROOT / "deploy/quickstart/corral.toml").read_text()
    made = parse(text.replace("../../.cache/guest/guest.json", str(manifest)), ROOT / "deploy/quickstart")
    assert made.zones[0].uuid == ZONE
    assert made.model_services[0].uuid == "f1e135835fee363c9f57ed8232023886"
    assert made.store_url == f"sqlite:///{ROOT}/var/corral.db"
    assert made.images[0].sha256 == {"kernel": "1" * 64, "initrd": "2" * 64}


def test_the_manifest_of_the_guest_for_bare_metal_is_an_image_that_it_boots(tmp_path: Path) -> None:
    (tmp_path / "metal.iso").write_bytes(b"\0" * 4096)
    (tmp_path / "metal.json").write_text(json.dumps({"format": "corral-metal/1", "sha256": "1" * 64}))
    text = SMALL.replace('kernel = "vmlinuz"', 'manifest = "metal.json"')
    (image,) = parse(text, tmp_path).images
    assert (image.disk_path, image.delivery) == (str(tmp_path / "metal.iso"), "seed")
    assert image.sha256 == {"disk": "1" * 64}


def _write_manifest(directory: Path) -> Path:
    manifest = directory / "guest.json"
    content = {
        "command_line": "console=ttyS0",
        "kernel": {"file": "vmlinuz", "sha256": "1" * 64},
        "initramfs": {"file": "initramfs.img", "sha256": "2" * 64},
    }
    manifest.write_text(json.dumps(content))
    return manifest


@given(
    st.integers(min_value=0, max_value=1 << 40), st.sampled_from([("KiB", 10), ("MiB", 20), ("GiB", 30), ("TiB", 40)])
)
def test_a_size_in_units_is_the_same_as_its_bytes(amount: int, unit: tuple[str, int]) -> None:
    assert parse_size(f"{amount}{unit[0]}") == parse_size(f"{amount} {unit[0]}") == parse_size(amount << unit[1])


@given(st.text(max_size=40))
def test_any_text_is_a_size_or_a_value_error(text: str) -> None:
    try:
        size = parse_size(text)
    except ValueError:
        return
    assert isinstance(size, int)
    assert size >= 0


@given(st.text(max_size=40))
def test_any_text_is_an_address_or_a_value_error(text: str) -> None:
    try:
        address = parse_listen_address(text)
    except ValueError:
        return
    assert parse_listen_address(str(address)) == address


def test_only_loopback_and_unix_sockets_count_as_local() -> None:
    assert parse_listen_address("[::1]:1").local
    assert parse_listen_address("localhost:1").local
    assert parse_listen_address("unix:/run/corral.sock").local
    assert not parse_listen_address("10.0.0.1:1").local
    assert not parse_listen_address("example.net:1").local
    assert ListenAddress("::1", 5).__str__() == "[::1]:5"


def test_no_listener_is_promised_more_connections_than_a_third_of_the_files() -> None:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = 1_000_000 if soft == resource.RLIM_INFINITY else min(1_000_000, soft // 3)
    assert affordable(1) == 1
    limits = "[server]\nmax_grpc_connections = 1_000_000\nmax_http_connections = 1_000_000\n"
    server = parse(limits + SMALL, Path("/")).server
    assert (server.max_grpc_connections, server.max_http_connections) == (most, most)
