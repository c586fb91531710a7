"""Where the service knows nobody without a token: the page asks for one, and shows what its role may see."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import pytest

from tests.support.process import ServiceProcess
from tests.web.browser import Page
from tests.web.conftest import configuration

pytestmark = pytest.mark.xdist_group("browser")


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    directory = tmp_path_factory.mktemp("sign-in")
    (directory / "kernel").touch()
    text = configuration(directory, 2).replace('anonymous = "loopback"', 'anonymous = "nobody"')
    for name, role in (("root", "admin"), ("blue", "viewer")):
        digest = hashlib.sha256(name.encode()).hexdigest()
        text += f'\n[[tokens]]\nname = "{name}"\nproject = "{name}"\nrole = "{role}"\nsha256 = "{digest}"\n'
    file = directory / "corral.toml"
    file.write_text(text)
    with ServiceProcess(file) as made:
        yield made


def signed_in(page: Page, token: str) -> list[str]:
    """The views that are offered to who has the token."""
    page.type("#token", token)
    page.click("form button")
    page.until(lambda: page.text("#link") == "live", "the page is live")
    return page.texts("nav a")


def test_a_page_asks_for_a_token_and_offers_what_its_role_may_see(page: Page) -> None:
    page.driver.get(page.base)
    page.until(lambda: page.text("h1") == "Sign in", "the question")
    assert page.accessibility() == []
    page.type("#token", "wrong")
    page.click("form button")
    page.until(lambda: "unknown" in page.text("main .problem"), "the refusal")
    everything = ["Fleet", "Groups", "Plan", "Images", "Rolls", "Quarantine", "Decisions", "Usage", "Audit"]
    assert signed_in(page, "root") == everything
    page.click("header button", "Sign out")
    page.until(lambda: page.text("h1") == "Sign in", "the question again")
    assert signed_in(page, "blue") == ["Groups", "Plan", "Images", "Usage"]
