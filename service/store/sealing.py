"""Encryption of stored secrets: AES-256-GCM, each value with a key of its own that the service's key wraps.

So a change of the service's key wraps the small keys anew and touches no value, and no two values share a key.
"""

from __future__ import annotations

import hashlib
import hmac
import os
from collections.abc import Iterator, Mapping

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from service.domain.secrets import Sealed

KEY_BYTES = 32
_NONCE_BYTES = 12  # what AES-GCM is specified for
_BITS = 8 * KEY_BYTES


class CannotOpen(Exception):
    """A value cannot be decrypted. The text says why, and holds nothing of it."""


class Keyring:
    """The service's keys by name. The first one encrypts, all of them decrypt."""

    def __init__(self, keys: Mapping[str, bytes]) -> None:
        """`keys`: 32 bytes each; without any, nothing can be encrypted or decrypted."""
        self._keys = dict(keys)

    @property
    def current(self) -> str:
        """The name of the key that encrypts; empty where there is none."""
        return next(iter(self._keys), "")

    def seal(self, value: str, bound: bytes) -> Sealed:
        """The value encrypted; `bound` must be told again to decrypt it. Raises CannotOpen where there is no key."""
        if not self._keys:
            raise CannotOpen("the service has no key to encrypt secrets with")
        own = AESGCM.generate_key(_BITS)
        return Sealed(self.current, self._wrap(own, bound), _encrypt(own, value.encode(), bound))

    def open(self, sealed: Sealed, bound: bytes) -> str:
        """The value. Raises CannotOpen."""
        own = self._unwrap(sealed, bound)
        try:
            return _decrypt(own, sealed.value, bound).decode()
        except (InvalidTag, UnicodeDecodeError):
            raise CannotOpen("what is stored was changed by somebody else") from None

    def can_open(self, sealed: Sealed, bound: bytes) -> bool:
        """Whether the key that it needs is here, and is still the same key."""
        try:
            self._unwrap(sealed, bound)
        except CannotOpen:
            return False
        return True

    def wrapped_anew(self, sealed: Sealed, bound: bytes) -> Sealed:
        """The same value under the current key. Raises CannotOpen."""
        return Sealed(self.current, self._wrap(self._unwrap(sealed, bound), bound), sealed.value)

    def fingerprints(self, text: str) -> Iterator[str]:
        """What stands for a text where it may be compared and not be read, a fingerprint by each key."""
        for key in self._keys.values():
            own = hmac.digest(key, b"corral fingerprint", hashlib.sha256)
            yield hmac.digest(own, text.encode(), hashlib.sha256).hex()

    def _wrap(self, own: bytes, bound: bytes) -> bytes:
        return _encrypt(self._keys[self.current], own, _tied(self.current, bound))

    def _unwrap(self, sealed: Sealed, bound: bytes) -> bytes:
        key = self._keys.get(sealed.key_name)
        if key is None:
            raise CannotOpen(f"it is encrypted with the key {sealed.key_name}, which this service does not have")
        try:
            return _decrypt(key, sealed.wrapped, _tied(sealed.key_name, bound))
        except InvalidTag:
            told = f"the key {sealed.key_name} of this service is not the one that it was encrypted with"
            raise CannotOpen(f"{told}, or its row was changed by somebody else") from None


def _tied(key_name: str, bound: bytes) -> bytes:
    return key_name.encode() + b"\n" + bound


def _encrypt(key: bytes, text: bytes, bound: bytes) -> bytes:
    nonce = os.urandom(_NONCE_BYTES)
    return nonce + AESGCM(key).encrypt(nonce, text, bound)


def _decrypt(key: bytes, sealed: bytes, bound: bytes) -> bytes:
    if len(sealed) <= _NONCE_BYTES:
        raise InvalidTag
    return AESGCM(key).decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], bound)
