"""The NoCloud volume: a small ISO image that cloud-init takes its first configuration from. Touches no file."""

from __future__ import annotations

import io
import json
import re
from typing import Any

import pycdlib

from service.drivers.base import MachineSpec, NetworkInterface

# cloud-init finds the volume by this label, on any block device.
LABEL = "cidata"
DOCUMENT_DIRECTORY = "/etc/corral"
SUPERVISOR = "supervisor"
"""The document that is a program: it is run at each boot, by systemd where the guest has it."""
_UNIT_PATH = "/etc/systemd/system/corral-supervisor.service"
_UNIT = f"""[Unit]
Description=Supervisor of a member of a Corral group
After=network.target local-fs.target

[Service]
ExecStart=/bin/sh {DOCUMENT_DIRECTORY}/{SUPERVISOR}
Restart=always
RestartSec=1
KillMode=mixed
TimeoutStopSec=30

[Install]
WantedBy=multi-user.target
"""
# cloud-init runs this at the first boot alone, systemd the unit at each.
_START = (
    "if [ -d /run/systemd/system ]; then systemctl daemon-reload; systemctl enable --now corral-supervisor;"
    f" else setsid /bin/sh {DOCUMENT_DIRECTORY}/{SUPERVISOR} & fi"
)
_BEYOND_ASCII = re.compile(r"[^\n\x20-\x7e]")


def nocloud_image(spec: MachineSpec) -> bytes:
    """An ISO 9660 image with meta-data, user-data, network-config and the machine's documents as files."""
    files = {
        "meta-data": _json({"instance-id": spec.identity.machine_uuid, "local-hostname": spec.host_name}),
        "user-data": "#cloud-config\n" + _json(_user_data(spec)),
        "network-config": _json(_network(spec.interfaces)),
        **spec.documents,
    }
    image = pycdlib.PyCdlib()
    image.new(interchange_level=3, joliet=3, rock_ridge="1.09", vol_ident=LABEL)
    for number, (name, text) in enumerate(sorted(files.items())):
        content = text.encode()
        image.add_fp(
            io.BytesIO(content),
            len(content),
            f"/FILE{number}.;1",
            rr_name=name,
            joliet_path=f"/{name}",
            file_mode=0o100444,
        )
    written = io.BytesIO()
    image.write_fp(written)
    image.close()
    return written.getvalue()


def _user_data(spec: MachineSpec) -> dict[str, Any]:
    found: dict[str, Any] = {
        "write_files": [
            {"path": f"{DOCUMENT_DIRECTORY}/{name}", "content": text, "permissions": "0600"}
            for name, text in sorted(spec.documents.items())
        ]
    }
    if SUPERVISOR in spec.documents:
        found["write_files"].append({"path": _UNIT_PATH, "content": _UNIT, "permissions": "0644"})
        found["runcmd"] = [["/bin/sh", "-c", _START]]
    return found


def _network(interfaces: tuple[NetworkInterface, ...]) -> dict[str, Any]:
    """netplan's version 2: interfaces are told apart by mac address, because their names depend on the guest."""
    ethernets: dict[str, Any] = {}
    for index, interface in enumerate(i for i in interfaces if i.kind != "none"):
        settings: dict[str, Any] = {"match": {"macaddress": interface.mac}}
        if interface.address:
            settings["addresses"] = [f"{interface.address}/{interface.prefix_length}"]
            if interface.gateway:
                settings["routes"] = [{"to": "default", "via": interface.gateway}]
        else:
            settings["dhcp4"] = True
        ethernets[f"nic{index}"] = settings
    return {"version": 2, "ethernets": ethernets}


def _json(value: Any) -> str:
    """A value as YAML that every parser takes: JSON in ASCII, characters beyond it as YAML's own escapes.

    JSON writes those above U+FFFF as two surrogates, which YAML takes for two characters that no file can hold; parsers
    before PyYAML 5.1 refuse them as they are, all refuse control characters and fold unusual line breaks. One such
    character makes cloud-init drop every file.
    """
    text = json.dumps(value, indent=1, ensure_ascii=False)
    return _BEYOND_ASCII.sub(lambda found: _yaml_escape(ord(found[0])), text) + "\n"


def _yaml_escape(point: int) -> str:
    return f"\\u{point:04x}" if point <= 0xFFFF else f"\\U{point:08x}"
