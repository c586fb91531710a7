"""Rules and partitions of devices that are about nothing on a host, as its operator is told. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from service.domain.devices import DeviceRules, PciFunction


def unmet(rules: DeviceRules, host_name: str, functions: Sequence[PciFunction]) -> Iterator[str]:
    """What names this host and finds nothing there, in words. `host_name`: as rules call it (`DeviceRules.name_of`)."""
    for index, rule in enumerate(rules.rules):
        if host_name in rule.hosts and not any(rule.matches(host_name, function) for function in functions):
            yield f"devices[{index}] is about no device of it"
    shown = {function.address for function in functions}
    for one in rules.partitions:
        if one.host == host_name and (lacking := sorted(set(one.addresses) - shown)):
            yield f"its partition {one.name} names {', '.join(lacking)}, where it has no device"
