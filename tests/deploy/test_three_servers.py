"""The guide "On three servers", its commands as they are written: Debian's PostgreSQL, TLS, a token, the package."""

from __future__ import annotations

import re
import shutil
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.deploy.debian_root import Root, needed
from tests.deploy.servers import base, servers
from tests.support import ROOT
from tests.support.certificates import certificate

ADDRESSES = {"db": "10.0.0.10", "c1": "10.0.0.11", "c2": "10.0.0.12", "c3": "10.0.0.13"}
PASSWORD = "PASSWORD"
"""The guide's own word for the one that is chosen."""
CONNECTED = """
SELECT client_addr, bool_and(ssl) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid)
WHERE datname = 'corral' AND client_addr IS NOT NULL GROUP BY 1 ORDER BY 1
"""


def blocks() -> list[str]:
    """The commands for the database's server, for the first replica's, and for whoever uses them."""
    guide = (ROOT / "deploy/INSTALL.md").read_text()
    section = guide.partition("## On three servers\n")[2].partition("\n## ")[0]
    return [textwrap.dedent(text).strip() for text in re.findall(r"(?:^    .*\n)+", section, re.MULTILINE)]


def test_the_guide_is_twenty_lines() -> None:
    assert [len(block.splitlines()) for block in blocks()] == [5, 13, 2]


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Root]:
    needed("mmdebstrap", "systemd-nspawn", "nsenter")
    of_the_package = ("adduser", "ca-certificates", "libvirt0", "python3", "python3-venv")
    made = base(tmp_path / "root", of_the_package, ["postgresql"])
    yield made
    shutil.rmtree(made.directory)


@pytest.mark.slow
@pytest.mark.xdist_group("package")
@pytest.mark.timeout(3600)
def test_three_servers_are_installed_by_the_guides_commands(package: Path, root: Root) -> None:
    for_db, for_c1, for_users = blocks()
    public, private = certificate("c1", "c2", "c3")
    with servers(root, ADDRESSES) as by_name:
        db, c1, c2 = by_name["db"], by_name["c1"], by_name["c2"]
        db.run(for_db, given=f"{PASSWORD}\n{PASSWORD}\n")
        for name, content in (
            ("server.pem", public),
            ("server.key", private),
            ("ca.pem", public),
            ("corral_0.1.0_amd64.deb", package.read_bytes()),
        ):
            c1.put(name, content)
        c1.run(for_c1, seconds=1800)
        for name in ("c1", "c2", "c3"):
            assert by_name[name].run("systemctl is-active corral").strip() == "active"
            assert by_name[name].run("stat -c '%U:%G %a' /etc/corral/server.key").strip() == "root:corral 640"
        assert "hv1" in c1.run(for_users)

        # All three have the one database, by TLS, and each answers by TLS to who has the token.
        told = db.run(f'cd /; su postgres -c "psql -AtX" <<END\n{CONNECTED}\nEND').split()
        assert told == [f"{ADDRESSES[name]}|t" for name in ("c1", "c2", "c3")]
        for name in ("c1", "c2", "c3"):
            one = for_users.replace("c1:50051,c2:50051,c3:50051", f"{name}:50051")
            assert "hv1" in c1.run(one)
        stranger = for_users.replace("$(cat corral.token)", "another")
        assert "UNAUTHENTICATED" in c1.run(f"({stranger}) 2>&1 && exit 1 || true").upper()

        # What one is told the others know, and the loss of one is not noticed.
        c1.run(f"{for_users}\ncorral --server c2:50051 zones add zone-2")
        c1.run("systemctl stop corral")
        assert "zone-2" in c1.run(for_users.replace("corral hosts", "corral zones"))
        assert c2.run("systemctl is-active corral").strip() == "active"
