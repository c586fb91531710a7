"""TLS of the listeners from PEM files that may be replaced: new connections get what the files hold then."""

from __future__ import annotations

import ssl
from pathlib import Path

import grpc
from cryptography import x509

from service.telemetry.logs import get_logger

_log = get_logger("corral.tls")


class Reloading:
    """The files' present content. Where one is missing or half written, the last good content stays; that is logged."""

    def __init__(self, certificate: Path, key: Path, client_ca: Path | None) -> None:
        """Raises OSError where a file cannot be read, ValueError where they do not make a server's identity."""
        self._paths = (certificate, key, client_ca)
        self._stamp = self._stamps()
        self.pem = self._read()

    @property
    def not_after(self) -> float:
        """When the present certificate ends, in seconds since the epoch."""
        return x509.load_pem_x509_certificate(self.pem[0]).not_valid_after_utc.timestamp()

    def changed(self) -> bool:
        """Whether there is new content since the last call; it is in `pem` then."""
        try:
            stamp = self._stamps()
            if stamp == self._stamp:
                return False
            pem = self._read()
        except (OSError, ValueError) as error:
            _log.error("the TLS files cannot be used; the last good ones stay in use", reason=str(error))
            return False
        self._stamp, self.pem = stamp, pem
        _log.info("TLS files were read again")
        return True

    def look_again(self) -> None:
        """The next call of `changed` reads the files whether they are other ones or not."""
        self._stamp = ()

    def load_into(self, context: ssl.SSLContext) -> None:
        """Make the context use the files."""
        certificate, key, client_ca = self._paths
        context.load_cert_chain(certificate, key)
        if client_ca is not None:
            context.load_verify_locations(client_ca)
            context.verify_mode = ssl.CERT_OPTIONAL

    def _stamps(self) -> tuple[tuple[int, int, int], ...]:
        stats = [path.stat() for path in self._paths if path is not None]
        return tuple((s.st_mtime_ns, s.st_size, s.st_ino) for s in stats)

    def _read(self) -> tuple[bytes, bytes, bytes | None]:
        certificate, key, client_ca = self._paths
        try:
            self.load_into(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))
        except ssl.SSLError as error:
            raise ValueError(f"{certificate} and {key} are no certificate and key that belong together") from error
        return certificate.read_bytes(), key.read_bytes(), client_ca.read_bytes() if client_ca else None


def credentials(files: Reloading) -> grpc.ServerCredentials:
    """Credentials that follow the files. With a client CA every client must have a good certificate; one with a token
    needs it too."""

    def configuration() -> grpc.ServerCertificateConfiguration:
        certificate, key, client_ca = files.pem
        return grpc.ssl_server_certificate_configuration([(key, certificate)], client_ca)

    def newer() -> grpc.ServerCertificateConfiguration | None:
        return configuration() if files.changed() else None

    # The stubs leave out that None means "nothing new".
    return grpc.dynamic_ssl_server_credentials(configuration(), newer, files.pem[2] is not None)  # type: ignore[arg-type]


def context(files: Reloading) -> ssl.SSLContext:
    """A context for the HTTP listener. `refresh` brings it up to date."""
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.minimum_version = ssl.TLSVersion.TLSv1_2
    files.load_into(made)
    return made


def refresh(made: ssl.SSLContext, files: Reloading) -> None:
    """Give new handshakes what the files hold, after `changed` said that it is new.

    To be called on the event loop whose listener has the context: a handshake between the certificate and its key would
    fail.
    """
    try:
        files.load_into(made)
    except (OSError, ssl.SSLError) as error:  # replaced once more, by halves, since they were read
        _log.error("the TLS files cannot be used yet; they are read again", reason=str(error))
        files.look_again()
