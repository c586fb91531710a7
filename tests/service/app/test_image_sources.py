"""What web servers may do to a fetch: it goes on by Range, leads nowhere that is not allowed, and tells no secret."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest

from service.app.image_sources import TRIES, ImageSources
from service.errors import InvalidArgument, Unavailable
from tests.support.certificates import certificate
from tests.support.source import Source, source

pytestmark = pytest.mark.asyncio

DATA = bytes(range(256)) * 40
LOOPBACK = ("127.0.0.0/8",)
NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


@pytest.fixture
def mirror() -> Iterator[Source]:
    with source() as running:
        running.files["/disk"] = DATA
        yield running


async def fetched(mirror: Source, path: str = "/disk", offset: int = 0, *, user: str = "") -> tuple[int, bytes]:
    """(where it began, all that came)."""
    sources = ImageSources(LOOPBACK, pauses=(0.0,), trust=NO_TLS)
    async with sources.opened(mirror.url(path, user=user), offset) as download:
        first = download.at
        assert download.size == len(DATA)
        return first, b"".join([part async for part in download.parts()])


async def wrong(mirror: Source, path: str = "/disk", offset: int = 0) -> str:
    with pytest.raises(InvalidArgument) as refused:
        await fetched(mirror, path, offset)
    ((violation,),) = (refused.value.violations,)
    assert violation.field == "url"
    return violation.description


async def test_what_breaks_off_is_asked_for_the_rest_as_often_as_bytes_come(mirror: Source) -> None:
    mirror.cuts = [1000] * (TRIES + 2)
    assert await fetched(mirror) == (0, DATA)
    assert [first for _, first, _ in mirror.asked] == [1000 * count for count in range(TRIES + 3)]


async def test_it_goes_on_from_what_is_here_whether_the_server_knows_ranges_or_not(mirror: Source) -> None:
    assert await fetched(mirror, offset=5000) == (5000, DATA[5000:])
    assert await fetched(mirror, offset=len(DATA)) == (len(DATA), b"")
    mirror.ranges = False
    mirror.cuts = [7500]
    assert await fetched(mirror, offset=5000) == (5000, DATA[5000:])


async def test_more_than_the_file_has_is_fetched_from_its_beginning(mirror: Source) -> None:
    assert await fetched(mirror, offset=len(DATA) + 1) == (0, DATA)


async def test_a_server_that_has_no_time_is_asked_again_and_not_for_ever(mirror: Source) -> None:
    mirror.statuses["/disk"] = [503] * (TRIES - 1)
    assert await fetched(mirror) == (0, DATA)
    mirror.statuses["/disk"] = [503] * TRIES
    with pytest.raises(Unavailable, match=r"url: its server answers 503.*go on at 0"):
        await fetched(mirror)
    mirror.cuts = [3000] + [0] * TRIES
    with pytest.raises(Unavailable, match="go on at 3000"):
        await fetched(mirror)


async def test_a_file_that_becomes_another_one_is_noticed(mirror: Source) -> None:
    def changed(sent: int) -> None:
        if sent >= 3000:
            mirror.files["/disk"] = DATA + b"more"

    mirror.gate, mirror.cuts = changed, [4000]
    assert await wrong(mirror) == "its file became another one while it was fetched"


async def test_what_cannot_be_an_image_is_told_by_the_url(mirror: Source) -> None:
    assert await wrong(mirror, "/none") == "its server answers 404"
    mirror.length = False
    assert await wrong(mirror) == "its server does not tell how long it is"
    mirror.length, mirror.headers = True, {"Content-Encoding": "gzip"}
    assert await wrong(mirror) == "its server sends it packed, and cannot send it as it is"
    sources = ImageSources(LOOPBACK, trust=NO_TLS)
    for text in ("", "disk", "ftp://h/x", "file:///etc/passwd", "http://", "http://h:99999/", "http://[::1", "//h/x"):
        with pytest.raises(InvalidArgument, match=r"^url: must be an http or https URL$"):
            async with sources.opened(text, 0):
                pass


async def test_redirects_are_followed_and_each_is_looked_at(mirror: Source) -> None:
    mirror.redirects = {"/a": "/b", "/b": mirror.url("/disk"), "/round": "/round"}
    assert await fetched(mirror, "/a") == (0, DATA)
    mirror.cuts = [1000]
    assert await fetched(mirror, "/a") == (0, DATA)
    assert [path for path, _, _ in mirror.asked][3:] == ["/a", "/b", "/disk"] * 2, "each piece from the beginning"
    assert await wrong(mirror, "/round") == "is redirected more than 5 times"
    elsewhere = ("http://169.254.169.254/latest/meta-data", "http://10.255.255.1/", "http://[::1]:1/")
    for target in elsewhere:
        mirror.redirects["/out"] = target
        assert "where images may not be fetched from" in await wrong(mirror, "/out")
    for target in ("file:///etc/passwd", "ftp://127.0.0.1/x", "http://u:secret@127.0.0.1/"):
        mirror.redirects["/out"] = target
        told = await wrong(mirror, "/out")
        assert "redirected" in told
        assert "secret" not in told


async def test_without_networks_neither_this_machine_nor_its_links_are_asked(mirror: Source) -> None:
    names = {
        "mine.test": ["127.0.0.1"],
        "mapped.test": ["::ffff:127.0.0.1"],
        "six.test": ["::1", "fe80::1"],
        "metadata.test": ["169.254.169.254"],
        "nowhere.test": ["0.0.0.0", "224.0.0.1", "255.255.255.255"],
    }

    async def resolve(host: str, port: int) -> list[str]:
        return names[host]

    for name in names:
        with pytest.raises(InvalidArgument, match="may not be fetched from"):
            async with ImageSources(resolve=resolve, trust=NO_TLS).opened(f"http://{name}:{mirror.port}/disk", 0):
                pass
    assert not mirror.asked
    names["mirror.test"] = ["203.0.113.9", "127.0.0.1"]
    async with ImageSources(LOOPBACK, resolve=resolve, trust=NO_TLS).opened(
        f"http://mirror.test:{mirror.port}/disk", 0
    ) as found:
        assert found.size == len(DATA)


async def test_over_https_the_certificate_must_be_of_the_name_that_was_asked(tmp_path: Path) -> None:
    pem, key = certificate("mirror.test")
    (tmp_path / "pem").write_bytes(pem + key)
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    serving.load_cert_chain(tmp_path / "pem")

    async def resolve(host: str, port: int) -> list[str]:
        return ["127.0.0.1"]

    trust = ssl.create_default_context(cadata=pem.decode())
    sources = ImageSources(LOOPBACK, resolve=resolve, trust=trust, pauses=(0.0,))
    with source(serving) as mirror:
        mirror.files["/disk"] = DATA
        async with sources.opened(f"https://mirror.test:{mirror.port}/disk", 4000) as download:
            assert b"".join([part async for part in download.parts()]) == DATA[4000:]
        with pytest.raises(InvalidArgument, match=r"url: leads to other\.test, whose certificate is not one that"):
            async with sources.opened(f"https://other.test:{mirror.port}/disk", 0):
                pass
        mirror.redirects["/down"] = mirror.url("/disk")
        with pytest.raises(InvalidArgument, match="redirects from https to http"):
            async with sources.opened(f"https://mirror.test:{mirror.port}/down", 0):
                pass


async def test_a_password_goes_to_its_own_server_alone(mirror: Source) -> None:
    with source() as other:
        other.files["/disk"] = DATA
        mirror.redirects = {"/here": "/disk", "/there": other.url("/disk")}
        for path in ("/here", "/there"):
            assert await fetched(mirror, path, user="me:secret") == (0, DATA)
        assert [bool(shown) for _, _, shown in mirror.asked] == [True, True, True]
        assert [shown for _, _, shown in other.asked] == [""]
