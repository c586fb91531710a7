"""Memory that no guest is given."""

from __future__ import annotations

from service.drivers.libvirt.inventory import Inventory, Seen
from service.drivers.libvirt.numa import huge_page_bytes
from service.drivers.libvirt.tags import read_domain

CAPABILITIES = """
<capabilities><host><topology><cells num='2'>
  <cell id='0'><pages unit='KiB' size='4'>1000000</pages><pages unit='KiB' size='2048'>512</pages>
    <pages unit='KiB' size='1048576'>0</pages></cell>
  <cell id='1'><pages unit='KiB' size='4'>1000000</pages><pages unit='KiB' size='2048'>0</pages>
    <pages unit='KiB' size='1048576'>3</pages></cell>
</cells></topology></host></capabilities>
"""


def test_huge_pages_of_all_cells_and_sizes_are_set_aside() -> None:
    assert huge_page_bytes(CAPABILITIES) == (1 << 30) + (3 << 30)


def test_a_host_that_tells_nothing_of_pages_has_set_none_aside() -> None:
    assert huge_page_bytes("<capabilities><host/></capabilities>") == 0


def test_a_stranger_in_huge_pages_holds_none_of_the_rest() -> None:
    xml = "<domain><name>x</name><memory>1024</memory><vcpu>2</vcpu>{}</domain>"
    backed = read_domain(xml.format("<memoryBacking><hugepages/></memoryBacking>"))
    plain = read_domain(xml.format("<memoryBacking><nosharepages/></memoryBacking>"))
    running = [Seen(None, str(number), record, 1, 1) for number, record in enumerate((backed, plain))]
    assert Inventory("c").foreign(running) == {"vcpu": 4, "memory": 1 << 20}
