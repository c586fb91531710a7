"""Stored secrets are encrypted for their own row, under a key that can be changed, and open for nothing else."""

from __future__ import annotations

import secrets
from dataclasses import replace

import pytest

from service.domain.secrets import Sealed, StoredSecret
from service.store.sealing import CannotOpen, Keyring
from tests.security.canary import leaks

FIRST, SECOND = secrets.token_bytes(32), secrets.token_bytes(32)
ROW = StoredSecret("a" * 32, "red", "token", Sealed("", b"", b""))
VALUE = "  ä value, kept as it is\t"


def test_a_value_comes_back_as_it_was_and_stands_in_nothing_that_is_stored() -> None:
    ring = Keyring({"first": FIRST})
    sealed = ring.seal(VALUE, ROW.bound)
    assert ring.open(sealed, ROW.bound) == VALUE
    assert leaks(VALUE, {"wrapped": sealed.wrapped, "value": sealed.value, "repr": repr(sealed).encode()}) == []
    assert ring.seal(VALUE, ROW.bound) != sealed, "equal values cannot be told from what is stored"


@pytest.mark.parametrize("other", [{"uuid": "b" * 32}, {"project": "blue"}, {"name": "other"}])
def test_a_value_opens_in_its_own_row_alone(other: dict[str, str]) -> None:
    ring = Keyring({"first": FIRST})
    sealed = ring.seal(VALUE, ROW.bound)
    moved = replace(ROW, **other)  # type: ignore[arg-type]
    assert not ring.can_open(sealed, moved.bound)
    with pytest.raises(CannotOpen, match="changed by somebody else"):
        ring.open(sealed, moved.bound)


def test_the_key_of_one_value_does_not_open_another() -> None:
    ring = Keyring({"first": FIRST})
    one, two = ring.seal("one", ROW.bound), ring.seal("two", ROW.bound)
    with pytest.raises(CannotOpen, match="changed by somebody else"):
        ring.open(Sealed(one.key_name, one.wrapped, two.value), ROW.bound)


@pytest.mark.parametrize("part", ["wrapped", "value"])
@pytest.mark.parametrize("place", [0, 12, -1])
def test_what_was_changed_does_not_open(part: str, place: int) -> None:
    ring = Keyring({"first": FIRST})
    sealed = ring.seal(VALUE, ROW.bound)
    text = bytearray(getattr(sealed, part))
    text[place] ^= 1
    for changed in (bytes(text), b"", text[:5]):
        with pytest.raises(CannotOpen):
            ring.open(replace(sealed, **{part: bytes(changed)}), ROW.bound)  # type: ignore[arg-type]


def test_without_the_key_or_with_another_of_its_name_nothing_opens_and_the_reason_is_told() -> None:
    sealed = Keyring({"first": FIRST}).seal(VALUE, ROW.bound)
    with pytest.raises(CannotOpen, match="the key first, which this service does not have"):
        Keyring({"second": SECOND}).open(sealed, ROW.bound)
    with pytest.raises(CannotOpen, match="is not the one that it was encrypted with"):
        Keyring({"first": SECOND}).open(sealed, ROW.bound)
    with pytest.raises(CannotOpen, match="no key"):
        Keyring({}).seal(VALUE, ROW.bound)


def test_a_change_of_the_key_wraps_anew_and_touches_no_value() -> None:
    old, both, new = Keyring({"1": FIRST}), Keyring({"2": SECOND, "1": FIRST}), Keyring({"2": SECOND})
    sealed = old.seal(VALUE, ROW.bound)
    assert both.open(sealed, ROW.bound) == VALUE
    anew = both.wrapped_anew(sealed, ROW.bound)
    assert (anew.key_name, anew.value) == ("2", sealed.value)
    assert new.open(anew, ROW.bound) == VALUE
    assert not old.can_open(anew, ROW.bound)


def test_a_fingerprint_is_of_the_text_and_of_a_key_that_nobody_else_has() -> None:
    both = Keyring({"2": SECOND, "1": FIRST})
    assert list(both.fingerprints("a")) == list(both.fingerprints("a")) != list(both.fingerprints("b"))
    assert list(Keyring({"1": FIRST}).fingerprints("a")) == list(both.fingerprints("a"))[1:]
