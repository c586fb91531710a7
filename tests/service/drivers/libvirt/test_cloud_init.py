"""The NoCloud volume as cloud-init itself reads it: Debian's package, its own YAML loader, in Debian's own Python."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from service.drivers.libvirt.nocloud import nocloud_image
from tests.service.drivers.libvirt.machines import bridged, specification
from tests.service.drivers.libvirt.test_nocloud import files_of

PYTHON = "/usr/bin/python3"
PACKAGES = "/usr/lib/python3/dist-packages"
LOAD = """
import json, sys
from cloudinit import safeyaml
def writable(value):
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return None  # cloud-init fails as it writes the first file of this
    return value
print(json.dumps([writable(safeyaml.load(text)) for text in json.load(sys.stdin)]))
"""
HOSTILE = [
    "plain",
    "emoji \U0001f600 and \U00010000 and \U0010fffd",
    "DEL \x7f, C1 \x80\x84\x86\x9f, NEL \x85, separators \u2028\u2029, BOM \ufeff, last \ufffd",
    "quotes \" ' \\ \\u0041 \\U00000041, tab \t, crlf \r\n, {a: b}, - x, # no comment, %TAG, &a *a !!binary |",
    "trailing spaces   \n\n   leading ones",
    "umlauts äöü, 日本語, עברית",
]


@pytest.fixture(scope="module")
def cloud_init(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Where cloud-init's own Python packages are. Unpacked from Debian's package where it is not installed."""
    if not Path(PYTHON).exists() or _run([PYTHON, "-c", "import yaml"]) is None:
        pytest.skip("needs Debian's Python with yaml: apt-get install --no-install-recommends python3-yaml")
    if (Path(PACKAGES) / "cloudinit").is_dir():
        return PACKAGES
    directory = tmp_path_factory.mktemp("cloud-init")
    fetched = _run(["apt-get", "-q", "download", "cloud-init"], cwd=directory)
    packages = list(directory.glob("cloud-init_*.deb"))
    if fetched is None or not packages or _run(["dpkg-deb", "-x", str(packages[0]), str(directory)]) is None:
        pytest.skip("cloud-init is neither installed nor can it be had: apt-get install cloud-init")
    return str(directory / PACKAGES.lstrip("/"))


def _run(command: list[str], cwd: Path | None = None) -> str | None:
    try:
        done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=60, check=False)
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def loaded(cloud_init: str, texts: list[str]) -> list[object]:
    """What cloud-init makes of these texts."""
    done = subprocess.run(
        [PYTHON, "-c", LOAD],
        input=json.dumps(texts),
        env={"PYTHONPATH": cloud_init},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: list[object] = json.loads(done.stdout)
    return found


def test_cloud_init_reads_every_text_as_it_was_given(cloud_init: str) -> None:
    documents = {"env": "".join(f"V{i}={text}\n" for i, text in enumerate(HOSTILE)), "rendezvous": json.dumps(HOSTILE)}
    documents["hosts"] = "10.0.0.1 node-0\n"
    spec = specification(documents=documents, interfaces=(bridged(1, "10.0.0.5"),), display_name="knoten \U0001f600")
    files = files_of(nocloud_image(spec))
    user_data, meta_data, network = loaded(cloud_init, [files[n] for n in ("user-data", "meta-data", "network-config")])
    assert isinstance(user_data, dict)
    written = {f["path"]: f["content"] for f in user_data["write_files"]}
    assert written == {f"/etc/corral/{name}": text for name, text in documents.items()}
    assert {f["permissions"] for f in user_data["write_files"]} == {"0600"}
    assert isinstance(meta_data, dict)
    assert meta_data["instance-id"] == spec.identity.machine_uuid
    assert isinstance(network, dict)
    assert network["ethernets"]["nic0"]["addresses"] == ["10.0.0.5/16"]


def test_what_json_writes_of_an_emoji_is_what_cloud_init_refuses(cloud_init: str) -> None:
    """Why the volume has escapes of its own."""
    pair = json.dumps({"write_files": [{"path": "/x", "content": "\U0001f600"}]})
    assert "\\ud83d" in pair
    (found,) = loaded(cloud_init, [pair])
    assert found is None
