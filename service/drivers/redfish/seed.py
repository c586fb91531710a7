"""What a machine is told before it boots: a small ISO image in its BMC's drive, which cloud-init on its disk reads.

It holds cloud-init's first configuration, the documents of the member, and where and how its guest reports.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from typing import Any

import pycdlib

from service.drivers.base import HostRejected, MachineSpec

LABEL = "cidata"
DIRECTORY = "/etc/corral"
SUPERVISOR = "supervisor"
MACHINE = "machine"
"""The document by which a guest knows its cards and where it reports."""


def seed_image(spec: MachineSpec, macs: tuple[str, ...], report_url: str, token: str) -> bytes:
    """An ISO 9660 image with meta-data, user-data, network-config and the documents as files.

    Raises HostRejected for an image whose guests read no such volume.
    """
    if spec.image.delivery != "nocloud":
        raise HostRejected(
            "bad_request", f"image {spec.image.name!r} is not for bare metal: its delivery is not nocloud"
        )
    documents = {**spec.documents, MACHINE: _machine(spec, macs, report_url, token)}
    files = {
        "meta-data": json.dumps({"instance-id": spec.identity.machine_uuid, "local-hostname": spec.host_name}),
        "user-data": "#cloud-config\n" + json.dumps(_user_data(documents)),
        "network-config": json.dumps(_network(spec, macs)),
        **documents,
    }
    image = pycdlib.PyCdlib()
    image.new(interchange_level=3, joliet=3, rock_ridge="1.09", vol_ident=LABEL)
    for number, (name, text) in enumerate(sorted(files.items())):
        content = text.encode()
        image.add_fp(
            io.BytesIO(content), len(content), f"/FILE{number}.;1",
            rr_name=name, joliet_path=f"/{name}", file_mode=0o100444,
        )  # fmt: skip
    written = io.BytesIO()
    image.write_fp(written)
    image.close()
    return written.getvalue()


def _machine(spec: MachineSpec, macs: tuple[str, ...], report_url: str, token: str) -> str:
    told = {
        "report_url": report_url,
        "token": token,
        "instance": spec.identity.instance,
        "attempt": spec.identity.attempt,
        "macs": list(macs),
    }
    return json.dumps(told, indent=1, sort_keys=True)


def _user_data(documents: Mapping[str, str]) -> dict[str, Any]:
    found: dict[str, Any] = {
        "write_files": [
            {"path": f"{DIRECTORY}/{name}", "content": text, "permissions": "0600"}
            for name, text in sorted(documents.items())
        ]
    }
    if SUPERVISOR in documents:
        found["runcmd"] = [["/bin/sh", "-c", f"setsid /bin/sh {DIRECTORY}/{SUPERVISOR} &"]]
    return found


def _network(spec: MachineSpec, macs: tuple[str, ...]) -> dict[str, Any]:
    """netplan's version 2. The machine's first card has the planned address; by DHCP where none is planned."""
    ethernets: dict[str, Any] = {}
    for index, (interface, mac) in enumerate(zip(spec.interfaces, macs, strict=False)):
        settings: dict[str, Any] = {"match": {"macaddress": mac}}
        if interface.address:
            settings["addresses"] = [f"{interface.address}/{interface.prefix_length}"]
            if interface.gateway:
                settings["routes"] = [{"to": "default", "via": interface.gateway}]
        else:
            settings["dhcp4"] = True
        ethernets[f"nic{index}"] = settings
    return {"version": 2, "ethernets": ethernets}
