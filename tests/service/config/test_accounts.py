"""[[accounts]] and [webhooks] of the configuration file."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from service.config.file import Config, ConfigError, parse
from service.domain.tenants import Account, Caller

ZONE = '[[zones]]\nuuid = "7a007a391d483c9f843bf1df4b7e5d8f"\nname = "zone-1"\n'
DIGEST = hashlib.sha512(b"secret").hexdigest()


def config(text: str) -> Config:
    return parse(text + ZONE, Path("/etc/corral"))


def account(**changes: str) -> str:
    values = {"name": "alice", "password_sha512": DIGEST, "role": "operator", "project": "red", **changes}
    return "[[accounts]]\n" + "".join(f'{name} = "{value}"\n' for name, value in values.items())


def test_an_account_is_a_caller_with_a_password() -> None:
    assert config(account()).accounts == (Account("alice", DIGEST, Caller("alice", "red", "operator")),)


def test_without_accounts_nobody_can_log_in_and_no_webhook_is_called() -> None:
    assert config("").accounts == ()
    assert config("").webhook_networks == ()


@pytest.mark.parametrize(
    ("changes", "key"),
    [({"role": "root"}, "role"), ({"password_sha512": "secret"}, "password_sha512"), ({"name": ""}, "name")],
)
def test_a_wrong_account_is_named_by_its_key(changes: dict[str, str], key: str) -> None:
    with pytest.raises(ConfigError) as caught:
        config(account(**changes))
    assert f"accounts[0].{key}" in str(caught.value)
    assert "secret" not in str(caught.value)


def test_two_accounts_of_one_name_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"accounts\[1\]\.name: alice is taken by accounts\[0\]"):
        config(account() + account())


def test_webhooks_are_allowed_to_networks() -> None:
    networks = config('[webhooks]\nallow = ["10.0.0.0/8", "127.0.0.1", "fd00::/8"]\n').webhook_networks
    assert networks == ("10.0.0.0/8", "127.0.0.1/32", "fd00::/8")
    with pytest.raises(ConfigError, match=r"webhooks\.allow\[0\]"):
        config('[webhooks]\nallow = ["hooks.example"]\n')
