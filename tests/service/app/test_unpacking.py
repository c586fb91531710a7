"""Who runs a container image and in which environment, by what its own files say."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from service.app.image_store import ImageStore
from service.app.layers import Entry, Tree
from service.app.unpacking import User, date_root, user_of, variables
from service.domain.containers import Unusable

PASSWD = "root:x:0:0:root:/root:/bin/sh\nserver:x:1007:1008::/srv:/bin/sh\nnonsense\n"
GROUP = "video:x:44:\n"


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ("", User("0", "/root")),
        ("root", User("0", "/root")),
        ("server", User("1007", "/srv")),
        ("1007", User("1007", "/srv")),
        ("server:video", User("1007:44", "/srv")),
        ("server:5", User("1007:5", "/srv")),
        ("4321", User("4321", "/", "corral-4321:x:4321:0::/:/bin/sh\n")),
        ("4321:video", User("4321:44", "/", "corral-4321:x:4321:0::/:/bin/sh\n")),
    ],
)
def test_users_are_looked_up_as_container_runtimes_do(wanted: str, found: User) -> None:
    assert user_of(wanted, PASSWD, GROUP) == found


@pytest.mark.parametrize("wanted", ["nobody", "server:nobodys", "4294967295", "server:-1", "\u0664"])
def test_who_leads_to_no_number_is_refused(wanted: str) -> None:
    with pytest.raises(Unusable):
        user_of(wanted, PASSWD, GROUP)


def test_an_environment_is_the_image_s_without_what_is_planned_or_no_line() -> None:
    given = ["A=b=c", "PATH=/opt", "RANK", "MASTER_ADDR=1", "CORRAL_GROUP_UUID=x", "L=a\nb", "1X=2", "S=secret://t"]
    assert variables(given, "/srv") == "PATH=/opt\nHOME=/srv\nA=b=c\nS=secret://t\n"
    assert "HOME=/else" in variables(["HOME=/else"], "/srv")
    assert variables([], "/").startswith("PATH=/usr/local/sbin:")


def test_a_place_that_is_another_call_s_by_now_is_left_to_it(tmp_path: Path) -> None:
    store, made, digest = ImageStore(tmp_path, 1000), "a" * 64, "b" * 64
    mine = store.place(made)
    assert store.adopt(made, digest)
    others = store.place(made)
    store.give_up(made, mine)
    assert store.part(made).exists()
    store.give_up(made, others)
    assert [path.name for path in tmp_path.iterdir()] == [store.part(digest).name]
    store.give_up(made, others)
    for one in (mine, others):
        one.close()


def test_links_that_lead_in_a_circle_are_refused() -> None:
    tree = Tree()
    link = b"2"
    layer = [(0, ("a",), Entry(link, 0o777, 0, 0, 0, target="b")), (1, ("b",), Entry(link, 0o777, 0, 0, 0, target="a"))]
    tree.add(0, layer)
    with pytest.raises(Unusable, match="in a circle"):
        tree.find(("a", "x"))


def test_the_time_of_a_root_is_found_across_two_blocks() -> None:
    """The table begins at 96, the root 8182 bytes into its first block: two bytes of its time are in the next one."""
    data = bytearray(b"\1" * (96 + 2 * 8194))
    data[32:40] = (8182).to_bytes(8, "little")
    data[64:72] = (96).to_bytes(8, "little")
    made = io.BytesIO(bytes(data))
    date_root(made)
    changed = [at for at, byte in enumerate(made.getvalue()) if byte != data[at]]
    assert changed == [96 + 2 + 8190, 96 + 2 + 8191, 96 + 4 + 8192, 96 + 4 + 8193]
