"""The guides "On a server", "On three servers" and "Upgrade, and back", their commands as they are written: Debian's
PostgreSQL, TLS, a token, the package, a newer one, and the way back."""

from __future__ import annotations

import re
import shutil
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.deploy.debian_root import REQUEST, SIMULATED, Root, needed, newer
from tests.deploy.servers import Server, base, servers
from tests.support import ROOT
from tests.support.certificates import certificate

ADDRESSES = {"db": "10.0.0.10", "c1": "10.0.0.11", "c2": "10.0.0.12", "c3": "10.0.0.13", "alone": "10.0.0.14"}
REPLICAS = ("c1", "c2", "c3")
PACKAGE = "corral_0.1.0_amd64.deb"
PASSWORD = "PASSWORD"
"""The guide's own word for the one that is chosen."""
CONNECTED = """
SELECT client_addr, bool_and(ssl) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid)
WHERE datname = 'corral' AND client_addr IS NOT NULL GROUP BY 1 ORDER BY 1
"""


def blocks(heading: str) -> list[str]:
    """The commands of the guide under a heading."""
    guide = (ROOT / "deploy/INSTALL.md").read_text()
    section = guide.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    return [textwrap.dedent(text).strip() for text in re.findall(r"(?:^    .*\n)+", section, re.MULTILINE)]


def test_the_guide_is_twenty_lines() -> None:
    assert [len(block.splitlines()) for block in blocks("On three servers")] == [5, 13, 2]


def test_one_server_and_an_upgrade_have_their_commands() -> None:
    assert [len(block.splitlines()) for block in blocks("On a server")] == [4]
    assert [len(block.splitlines()) for block in blocks("Upgrade, and back")] == [2, 2]


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Root]:
    needed("mmdebstrap", "systemd-nspawn", "nsenter")
    of_the_package = ("adduser", "ca-certificates", "libvirt0", "python3", "python3-venv", "squashfs-tools")
    made = base(tmp_path / "root", of_the_package, ["postgresql"])
    yield made
    shutil.rmtree(made.directory)


@pytest.mark.slow
@pytest.mark.xdist_group("package")
@pytest.mark.timeout(3600)
def test_servers_are_installed_and_upgraded_by_the_guides_commands(package: Path, root: Root, tmp_path: Path) -> None:
    with servers(root, ADDRESSES) as by_name:
        one_server(by_name["alone"], package)
        by_name["alone"].run("systemctl stop corral")
        three_servers(by_name, package)
        upgraded_and_back(by_name, newer(package, tmp_path))

        # What one is told the others know, and the loss of one is not noticed.
        _, _, for_users = blocks("On three servers")
        by_name["c1"].run(f"{for_users}\ncorral --server c2:50051 zones add zone-2")
        by_name["c1"].run("systemctl stop corral")
        assert "zone-2" in by_name["c1"].run(for_users.replace("corral hosts", "corral zones"))
        assert by_name["c2"].run("systemctl is-active corral").strip() == "active"


def one_server(server: Server, package: Path) -> None:
    """Its lines, with what somebody writes who opens the editor; then a group runs there."""
    server.put(PACKAGE, package.read_bytes())
    (lines,) = blocks("On a server")
    install, edit, *rest = lines.splitlines()
    server.run(install, given="y\n", seconds=1800)
    assert edit.startswith("vi /etc/corral/corral.toml ")
    server.run(f"cat >>/etc/corral/corral.toml <<'END'\n{SIMULATED}\nEND")
    assert "pretend" in server.run("\n".join(rest))
    server.put("request.json", REQUEST.encode())
    assert "Running" in server.run("corral deploy -f request.json")
    owners = server.run("stat -c '%U:%G %a' /etc/corral /var/lib/corral/corral.db").split("\n")
    assert owners[:2] == ["root:corral 750", "corral:corral 600"]
    assert "serving" in server.run("journalctl -u corral --no-pager")


def three_servers(by_name: dict[str, Server], package: Path) -> None:
    """The lines for PostgreSQL, for the replicas, and for whoever uses them."""
    for_db, for_c1, for_users = blocks("On three servers")
    public, private = certificate("c1", "c2", "c3")
    db, c1 = by_name["db"], by_name["c1"]
    db.run(for_db, given=f"{PASSWORD}\n{PASSWORD}\n")
    for name, content in (
        ("server.pem", public),
        ("server.key", private),
        ("ca.pem", public),
        (PACKAGE, package.read_bytes()),
    ):
        c1.put(name, content)
    c1.run(for_c1, seconds=1800)
    for name in REPLICAS:
        assert by_name[name].run("systemctl is-active corral").strip() == "active"
        assert by_name[name].run("stat -c '%U:%G %a' /etc/corral/server.key").strip() == "root:corral 640"
    assert "hv1" in c1.run(for_users)

    # All three have the one database, by TLS, and each answers by TLS to who has the token.
    told = db.run(f'cd /; su postgres -c "psql -AtX" <<END\n{CONNECTED}\nEND').split()
    assert told == [f"{ADDRESSES[name]}|t" for name in REPLICAS]
    for name in REPLICAS:
        one = for_users.replace("c1:50051,c2:50051,c3:50051", f"{name}:50051")
        assert "hv1" in c1.run(one)
    stranger = for_users.replace("$(cat corral.token)", "another")
    assert "UNAUTHENTICATED" in c1.run(f"({stranger}) 2>&1 && exit 1 || true").upper()


def upgraded_and_back(by_name: dict[str, Server], newer_package: Path) -> None:
    """Each replica is another version after each block, with its configuration, and answers."""
    to_newer, back = blocks("Upgrade, and back")
    _, _, for_users = blocks("On three servers")
    exports = for_users.partition("\n")[0]
    c1 = by_name["c1"]
    c1.put("corral_NEW_amd64.deb", newer_package.read_bytes())
    for lines, version in ((to_newer, "99.0"), (back, "0.1.0")):
        c1.run(f"{exports}\n{lines}", seconds=1800)
        for name in REPLICAS:
            assert by_name[name].run("dpkg-query -W -f '${Version}' corral") == version
            assert "hv1" in c1.run(for_users.replace("c1:50051,c2:50051,c3:50051", f"{name}:50051"))
