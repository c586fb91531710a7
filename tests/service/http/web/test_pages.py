"""The page's files: served with what keeps strangers out, and nothing in them that comes from elsewhere."""

from __future__ import annotations

import re
from importlib import resources

import httpx
import pytest
from starlette.applications import Starlette

from service.http.web.pages import page_routes

ASSETS = resources.files("service.http.web") / "assets"
SOURCES = {entry.name: entry.read_text() for entry in ASSETS.iterdir() if entry.is_file()}

pytestmark = pytest.mark.asyncio


def client() -> httpx.AsyncClient:
    """A client of an application that has the page alone."""
    transport = httpx.ASGITransport(app=Starlette(routes=page_routes()))
    return httpx.AsyncClient(transport=transport, base_url="http://test")


async def test_every_file_is_served_under_a_policy_that_lets_it_load_its_own_service_alone() -> None:
    async with client() as http:
        for path in ("/", *(f"/web/{name}" for name in SOURCES if name != "index.html"), "/web/vendor/preact-htm.mjs"):
            answer = await http.get(path)
            assert answer.status_code == 200, path
            policy = answer.headers["content-security-policy"]
            assert "default-src 'none'" in policy
            assert "unsafe" not in policy
            assert "http" not in policy
            assert answer.headers["x-content-type-options"] == "nosniff"
        assert (await http.get("/")).headers["content-type"].startswith("text/html")
        assert (await http.get("/web/app.js")).headers["content-type"].startswith("text/javascript")


async def test_a_file_that_is_known_is_not_sent_again() -> None:
    async with client() as http:
        first = await http.get("/web/style.css")
        again = await http.get("/web/style.css", headers={"If-None-Match": first.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")


async def test_no_path_leads_out_of_the_files() -> None:
    async with client() as http:
        for path in ("/web/", "/web/index.html", "/web/../pages.py", "/web/%2e%2e/pages.py", "/web/vendor"):
            assert (await http.get(path)).status_code == 404, path


async def test_nothing_is_inline_and_nothing_comes_from_elsewhere() -> None:
    page = SOURCES["index.html"]
    assert not re.search(r"<script(?![^>]*\bsrc=)", page)
    assert not re.search(r"\bon\w+=|style=|<style", page)
    for name, text in SOURCES.items():
        addresses = set(re.findall(r"https?://[^\s\"'`)]+", text)) - {"http://www.w3.org/2000/svg"}
        assert not addresses, name
        assert not re.search(r"\beval\(|new Function|innerHTML|document\.write", text), name


async def test_every_module_that_is_imported_is_there() -> None:
    for name, text in SOURCES.items():
        for module in re.findall(r'from "\./([^"]+)"', text):
            assert (ASSETS / module).is_file(), f"{name} imports {module}"


async def test_all_modules_are_asked_for_at_once() -> None:
    imported = {module for text in SOURCES.values() for module in re.findall(r'from "\./([^"]+)"', text)}
    named = re.findall(r'<link rel="modulepreload" href="/web/([^"]+)">', SOURCES["index.html"])
    assert sorted(named) == sorted(imported)
