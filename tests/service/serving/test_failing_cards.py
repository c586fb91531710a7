"""Which of the errors that a card's driver tells by number are the card's own, so that it goes out of service."""

from __future__ import annotations

from tests.service.serving.guest import Guest, guest

__all__ = ["guest"]

OF_THE_CARD = (46, 48, 62, 64, 74, 79, 95, 136, 140, *range(143, 151), 158)
OF_A_PROGRAM_OR_OVER = (13, 31, 43, 45, 63, 69, 92, 94, 109, 119, 154)


def test_errors_of_the_card_itself_are_reported_and_no_others(guest: Guest) -> None:
    functions, kernel = guest.directory / "pci", guest.directory / "kernel"
    function = functions / "0000:06:00.0"
    function.mkdir(parents=True)
    (function / "vendor").write_text("0x10de\n")
    (function / "device").write_text("0x2330\n")
    kernel.write_text(
        "".join(f"[ 9.1] NVRM: Xid (PCI:0000:06:00): {number}, pid=1, of the card\n" for number in OF_THE_CARD)
        + "".join(f"[ 9.2] NVRM: Xid (PCI:0000:05:00): {number}, pid=7\n" for number in OF_A_PROGRAM_OR_OVER)
    )
    guest.environment |= {
        "CORRAL_PCI": str(functions), "CORRAL_KERNEL_LOG": f"cat {kernel}", "CORRAL_DEVICE_TURNS": "2",
    }  # fmt: skip
    guest.start("exec sleep 600", CORRAL_DEVICES="10de:2330=1")
    told = guest.at("ready")["ailing"].removesuffix(";").split(";")
    assert sorted(told) == sorted(f"0000:06:00.0 Xid {number}" for number in OF_THE_CARD)
