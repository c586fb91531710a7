"""Rules and partitions of the file as what they mean, with what is wrong with them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from service.config.sections import Sections
from service.domain.devices import (
    Clean,
    DeviceRule,
    DeviceRules,
    Partition,
    RuleKind,
    partition_violations,
    rule_violations,
)
from service.domain.fleet import Host


def device_rules(file: Sections, hosts: Iterable[Host]) -> DeviceRules:
    """All of them; what is wrong with one is added to the file's problems. `hosts`: those of the file."""
    rules = tuple(
        DeviceRule(
            kind=RuleKind(section.kind),
            model=section.model,
            vendor=section.vendor,
            product=section.product,
            device_class=section.pci_class,
            addresses=tuple(section.addresses),
            hosts=tuple(section.hosts),
            clean=Clean(section.clean),
        )
        for section in file.checked.devices
    )
    for index, wrong in rule_violations(rules):
        where = file.at("devices", index)
        file.problems.append(
            f"{where}.{wrong.field}: {wrong.description}" if wrong.field else f"{where}: {wrong.description}"
        )
    partitions = tuple(_partitions(file))
    names = {name for rule in rules for name in rule.hosts} | {one.host for one in partitions}
    return DeviceRules(rules, partitions, {host.uuid: host.name for host in hosts if host.name in names})


def _partitions(file: Sections) -> Iterator[Partition]:
    for index, host in enumerate(file.checked.hosts):
        mine = [Partition(host.name, one.name, tuple(one.devices)) for one in host.partitions]
        for number, wrong in partition_violations(mine):
            where = f"{file.at('hosts', index)}.partitions[{number}].{wrong.field}"
            file.problems.append(f"{where}: {wrong.description}")
        yield from mine
