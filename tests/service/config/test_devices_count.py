"""What the file says of devices counts: which functions of which hosts are offered, and as what."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from service.config.file import ConfigError, parse, warnings
from service.domain.devices import Clean, PciFunction, Unit, units
from tests.support.whole import config_text

RULES = """
[[devices]]
model = "h100"
vendor = "10de"
product = "2330"
clean = "none"

[[devices]]
kind = "companion"
vendor = "10de"
product = "22bc"

[[devices]]
model = "any-display"
pci_class = "0300"
hosts = ["hv1"]

[[devices]]
model = "by-place"
addresses = ["0000:09:00.0"]
hosts = ["hv1"]
"""
FUNCTIONS = (
    PciFunction("0000:05:00.0", "10de", "2330", "030200", group=1),
    PciFunction("0000:05:00.1", "10de", "22bc", "040300", group=1),
    PciFunction("0000:06:00.0", "10de", "2331", "030200", group=2),
    PciFunction("0000:07:00.0", "1002", "2330", "030200", group=3),
    PciFunction("0000:08:00.0", "1002", "1478", "030000", group=4),
    PciFunction("0000:09:00.0", "1002", "9999", "120000", group=5),
    PciFunction("0000:0a:00.0", "1002", "9999", "120000", group=6),
)


def offered(directory: Path, host: str, rules: str = RULES) -> dict[str, Unit]:
    config = parse(config_text(1, extra=rules), directory)
    return {unit.key: unit for unit in units(config.devices.rules, host, FUNCTIONS)}


def test_each_key_of_a_rule_decides_what_is_offered(tmp_path: Path) -> None:
    here = offered(tmp_path, "hv1")
    told = {key: (unit.model, unit.clean) for key, unit in here.items()}
    assert told == {
        "0000:05:00.0": ("h100", Clean.NONE),
        "0000:08:00.0": ("any-display", Clean.RESET),
        "0000:09:00.0": ("by-place", Clean.RESET),
    }
    assert [f.address for f in here["0000:05:00.0"].functions] == ["0000:05:00.0", "0000:05:00.1"]
    assert {unit.state for unit in here.values()} == {"available"}
    assert set(offered(tmp_path, "hv2")) == {"0000:05:00.0"}


def test_rules_that_contradict_or_cannot_be_meant_are_told_by_their_places(tmp_path: Path) -> None:
    wrong = RULES.replace('model = "h100"', 'model = "no model"') + '\n[[devices]]\nmodel = "x"\nproduct = "22bc"\n'
    wrong += '\n[[devices]]\nmodel = "y"\naddresses = ["0000:09:00.0", "9:0"]\nhosts = ["hv1", "hv2"]\n'
    with pytest.raises(ConfigError) as refused:
        offered(tmp_path, "hv1", wrong)
    told = [problem for problem in refused.value.problems if problem.startswith("devices")]
    assert [problem.partition(":")[0] for problem in told] == [
        "devices[0].model", "devices[4].vendor", "devices[5].addresses", "devices[5].addresses",
    ]  # fmt: skip
    assert "'9:0', which is no PCI address" in told[2]
    assert "names 0000:09:00.0, which devices[3] names as well" in told[3]


def test_a_partition_is_named_by_its_host_and_told_where_it_contradicts(tmp_path: Path) -> None:
    host = '\n[[hosts]]\nname = "hv1"\nzone = "zone-1"\ndriver = "simulated"\ntransport = "none"\n'
    left = '\n[[hosts.partitions]]\nname = "left"\ndevices = ["0000:05:00.0", "0000:09:00.0"]\n'
    config = parse(config_text(0, extra=host + left + RULES), tmp_path)
    rules = config.devices
    found = {unit.key: unit.partition for unit in units(rules.rules, "hv1", FUNCTIONS, rules.partitions_of("hv1"))}
    assert found == {"0000:05:00.0": "left", "0000:08:00.0": "", "0000:09:00.0": "left"}
    assert rules.partitions_of("hv2") == {}
    again = left.replace("0000:05:00.0", "5:0")
    third = left.replace("left", "right")
    with pytest.raises(ConfigError) as refused:
        parse(config_text(0, extra=host + left + again + third + RULES), tmp_path)
    told = [problem for problem in refused.value.problems if "partitions" in problem]
    assert any("partitions[1].name" in one and "another partition" in one for one in told)
    assert any("partitions[1].devices" in one and "'5:0', which is no PCI address" in one for one in told)
    assert any("partitions[2].devices" in one and "0000:09:00.0, which is in 'left' as well" in one for one in told)


def test_a_rule_of_a_host_that_is_not_in_the_file_is_told_as_a_warning(tmp_path: Path) -> None:
    """A host that a call adds may have that name: it is no mistake for certain."""
    host = '\n[[hosts]]\nname = "hv1"\nzone = "zone-1"\ndriver = "libvirt"\ntransport = "unix"\n'
    rules = RULES.replace(
        'addresses = ["0000:09:00.0"]\nhosts = ["hv1"]', 'addresses = ["0000:09:00.0"]\nhosts = ["hv-1"]'
    )

    def told(text: str) -> list[str]:
        return [line for line in warnings(parse(config_text(0, extra=host + text), tmp_path)) if "devices[" in line]

    assert told(RULES) == []
    (line,) = told(rules)
    assert line.startswith("devices[3].hosts: there is no host 'hv-1' in [[hosts]]")
    assert "hv1" in line
    of = parse(config_text(0, extra=host + RULES), tmp_path)
    (hv1,) = of.hosts
    metal = replace(of, hosts=(replace(hv1, address=replace(hv1.address, driver="redfish")),))
    line, _ = [line for line in warnings(metal) if "devices[" in line]
    assert line == "devices[2].hosts: 'hv1' is of kind redfish, whose devices are only counted"


def test_devices_of_a_partition_that_no_rule_offers_are_told_as_a_warning(tmp_path: Path) -> None:
    host = '\n[[hosts]]\nname = "{}"\nzone = "zone-1"\ndriver = "{}"\ntransport = "{}"\n'
    left = '\n[[hosts.partitions]]\nname = "left"\ndevices = ["0000:05:00.0", "0000:09:00.0"]\n'
    by_place = '\n[[devices]]\nmodel = "by-place"\naddresses = ["0000:09:00.0"]\nhosts = ["hv1"]\n'
    companion = '\n[[devices]]\nkind = "companion"\nvendor = "10de"\nproduct = "22bc"\n'

    def told(driver: str, rules: str, transport: str = "unix") -> list[str]:
        of = parse(config_text(0, extra=host.format("hv1", driver, transport) + left + rules), tmp_path)
        return [line for line in warnings(of) if "partitions" in line]

    missing = "hosts.hv1.partitions.left.devices: no rule of [[devices]] offers 0000:05:00.0 of this host"
    (line,) = told("libvirt", by_place + companion)
    assert line.startswith(missing)
    assert len(told("libvirt", companion)) == 2, "a companion is offered to nobody by itself"
    assert len(told("libvirt", by_place.replace("hv1", "hv2"))) == 2, "a rule of another host"
    assert told("libvirt", RULES) == [], "by vendor and product it may be any of the host's"
    assert told("simulated", "", "none") == [], "such a host offers its devices itself"
    of = parse(config_text(0, extra=host.format("hv1", "simulated", "none") + left), tmp_path)
    (simulated,) = of.hosts
    metal = replace(of, hosts=(replace(simulated, address=replace(simulated.address, driver="redfish")),))
    (line,) = [line for line in warnings(metal) if "partitions" in line]
    assert (
        line == "hosts.hv1.partitions.left: redfish hosts' devices are only counted: nobody is given them by partition"
    )
