"""The preset `mpi` for real: guests in namespaces with their supervisors, the documents as they are rendered, Open MPI
over SSH, and an answer that is right only where every rank did its part."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from service.domain.catalog import Image
from service.domain.environment import NoSecrets
from service.domain.groups import Group
from service.domain.network import Network, mac_address
from service.domain.presets import ports_of
from service.serving.rendezvous import rendezvous, texts
from tests.lab.namespaces import Namespace
from tests.lab.requirements import program, why_not
from tests.service.serving.guest import Guest, until
from tests.support import ROOT
from tests.support.builders import entry, group, host, zone

pytestmark = pytest.mark.timeout(600)

MPI = ROOT / ".cache/mpi/root"
RING = Path(__file__).with_name("ring.py")
PROCESSORS = (1, 2, 1)
_SWITCH = """
ip link set lo up
ip link add br0 type bridge forward_delay 0
ip link set br0 up
"""
# A machine of its own: a network card, a host name, and a root of Open MPI's and SSH's packages over this one's.
_MACHINE = """
address=$1 mac=$2 number=$3 switch=$4 packages=$5 shared=$6
hostname "node-$number"
ip link set lo up
ip link add eth0 address "$mac" type veth peer name "port$number" netns "$switch"
ip link set eth0 up
ip address add "$address/24" dev eth0
mount -t tmpfs tmpfs "$shared/$number"
cd "$shared/$number"
mkdir upper work root
mount -t overlay overlay -o "lowerdir=/,upperdir=$PWD/upper,workdir=$PWD/work" root
tar -C "$packages" -c --exclude=./usr/share/doc --exclude=./usr/share/man . | tar -C root -x --keep-directory-symlink
mkdir -p "root$shared" root/proc root/dev root/sys
mount -t sysfs sysfs root/sys
mount --rbind /proc root/proc
mount --rbind /dev root/dev
mount --bind "$shared" "root$shared"
exec chroot root sh -ec '
grep -q ^sshd: /etc/passwd || echo "sshd:x:65530:65534::/run/sshd:/usr/sbin/nologin" >> /etc/passwd
rm -rf /run/sshd /root/.ssh /etc/ssh/sshd_config.d
mkdir -p -m 755 /run/sshd
mkdir -m 700 /root/.ssh
cp "$1/key" /root/.ssh/id_ed25519
cp "$1/key.pub" /root/.ssh/authorized_keys
cp "$1/key" /etc/ssh/ssh_host_ed25519_key
chmod 600 /root/.ssh/* /etc/ssh/ssh_host_ed25519_key
printf "%s\\n" "HostKey /etc/ssh/ssh_host_ed25519_key" "PermitRootLogin prohibit-password" "UsePAM no" \\
    > /etc/ssh/sshd_config
sed -i "s/^root:[^:]*:/root:*:/" /etc/shadow
echo ready
exec env --ignore-signal=CHLD cat > /dev/null' sh "$shared"
"""


@dataclass
class Machines:
    """Three of them on a switch. `shared`: a directory that all of them see."""

    switch: Namespace
    each: list[Namespace]
    shared: Path

    def inside(self, number: int) -> list[int]:
        """The processes in the machine's network, by their ids here, but for the one that holds it."""
        mine, found = os.readlink(f"/proc/{self.each[number].pid}/ns/net"), []
        for entry_ in Path("/proc").iterdir():
            if entry_.name.isdecimal() and int(entry_.name) != self.each[number].pid:
                with contextlib.suppress(OSError):
                    if os.readlink(entry_ / "ns/net") == mine:
                        found.append(int(entry_.name))
        return found

    def computing(self, number: int) -> list[int]:
        """Its processes that compute."""
        return [pid for pid in self.inside(number) if _words(pid)[1:2] == [RING.name]]

    def close(self) -> None:
        """Ends all that is in them."""
        for number in range(len(self.each)):
            for pid in self.inside(number):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        for one in (*self.each, self.switch):
            one.close()


def _words(pid: int) -> list[str]:
    """The names in its command line; none of one that has ended."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return []
    return [Path(word).name for word in words]


@pytest.fixture
def machines(tmp_path: Path) -> Iterator[Machines]:
    if reason := why_not():
        pytest.skip(reason)
    if not (MPI / "usr/bin/mpirun").exists():
        pytest.skip("Open MPI is not here: deploy/quickstart/prepare.sh mpi")
    if not shutil.which("busybox") or not shutil.which("ssh-keygen"):
        pytest.skip("busybox and ssh-keygen are needed")
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / "key")], check=True)
    shutil.copy(RING, tmp_path)
    switch, each = Namespace(("--net",), _SWITCH), list[Namespace]()
    made = Machines(switch, each, tmp_path)
    try:
        for member in members().instances:
            (tmp_path / str(member.rank)).mkdir()
            told = (member.address, member.mac, str(member.rank), str(switch.pid), str(MPI.resolve()), str(tmp_path))
            each.append(Namespace(("--net", "--mount", "--uts"), _MACHINE, told))
            switch.run(program("ip"), "link", "set", f"port{member.rank}", "master", "br0")
            switch.run(program("ip"), "link", "set", f"port{member.rank}", "up")
        yield made
    finally:
        made.close()


def members(engine: str = "") -> Group:
    """Three placed members, whose leader runs this."""
    plain = group(3, uuid="a" * 32)
    placed = [
        replace(
            m,
            host_uuid=host(m.rank + 1).uuid,
            address=f"10.66.0.{10 + m.rank}",
            mac=mac_address(f"10.66.0.{10 + m.rank}", m.uuid),
            spec=replace(m.spec, cpu_num=PROCESSORS[m.rank], startup_parameters="" if m.rank else engine),
        )
        for m in plain.instances
    ]
    return replace(plain, instances=tuple(placed))


def documents(engine: str, expected: str) -> list[dict[str, str]]:
    """What each member is told, as the service renders it."""
    made = members(engine)
    own = entry(
        framework="mpi",
        ports=ports_of("mpi", {}),
        image=Image("mpi", disk_path="/d", delivery="nocloud"),
        canary_path="/3",
        canary_expect=expected,
    )
    network = zone(network=Network("bridge", "br0", "10.66.0.0/24", "10.66.0.1", "10.66.0.10", "10.66.0.40"))
    told = (rendezvous(made, m, host(1), {network.uuid: network}, {own.uuid: own}, NoSecrets()) for m in made.instances)
    return [texts(document, made, m) for document, m in zip(told, made.instances, strict=True)]


def right(n: int) -> str:
    """By arithmetic: Open MPI fills the slots of the host file in its order."""
    ranks = [number for number, count in enumerate(PROCESSORS) for _ in range(count)]
    places = " ".join(f"{rank}@node-{number}" for rank, number in enumerate(ranks))
    return f"{n}: {n * sum(range(1, len(ranks) + 1))} by {places}"


def test_every_rank_of_open_mpi_does_its_part_and_all_begin_anew_where_one_ends(machines: Machines) -> None:
    engine, guests = f"python3 {machines.shared / RING.name} 8080", []
    for number, told in enumerate(documents(engine, f"^{right(3)}$")):
        shell = ["busybox", "sh"] if number == 1 else ["dash"]
        enter = [program("nsenter"), "--target", str(machines.each[number].pid), "--net", "--mount", "--uts", "--"]
        directory = machines.shared / f"guest-{number}"
        directory.mkdir()
        guest = Guest(
            directory, [*enter, program("chroot"), str(machines.shared / str(number) / "root"), *shell], documents=told
        )
        guest.environment = {"CORRAL_HOSTS_FILE": "/etc/hosts", "HOME": "/root"}
        guests.append(guest)

    def ask(n: int) -> str:
        url = f"http://{members().instances[0].address}:8080/{n}"
        return subprocess.run(
            machines.each[2].command("curl", "-sf", "-m", "10", url), capture_output=True, text=True, check=False
        ).stdout

    try:
        for guest in reversed(guests):
            guest.start("")
        for guest in guests:
            guest.at("ready")
        assert [ask(n) for n in (1, 7, 12)] == [right(1), right(7), right(12)]
        computing = {number: machines.computing(number) for number in range(3)}
        assert [len(computing[number]) for number in range(3)] == list(PROCESSORS)

        os.kill(computing[1][0], signal.SIGKILL)
        gone = [pid for pids in computing.values() for pid in pids]
        until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in gone), "all ranks of that run have ended")
        until(lambda: ask(5) == right(5), "a run of all ranks anew")
        assert guests[0].at("ready")["restarts"] >= 1
        again = {number: machines.computing(number) for number in range(3)}
        assert [len(again[number]) for number in range(3)] == list(PROCESSORS)
        assert not {pid for pids in again.values() for pid in pids} & set(gone), "none of the run before computes on"
    finally:
        for guest in guests:
            guest.stop()
