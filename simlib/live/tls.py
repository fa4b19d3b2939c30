"""TLS 1.3 in memory: bytes of the wire on one side, bytes of the endpoint on the other.

pyOpenSSL, because v2's key is bound to the connection (RFC 9266, tls-exporter) and the standard library's `ssl` gives
no exporter; it in turn can check no names, so service_identity does. pyOpenSSL has no pre-shared keys for TLS: v2's own
`psk` is what two hosts without certificates use.

Credentials are a folder as QEMU's `tls-creds-x509,dir=` wants it: ca-cert.pem, and server-cert.pem and server-key.pem
or client-cert.pem and client-key.pem. Both sides check the other's (`verify-peer=on`).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import trustme
from OpenSSL import SSL
from service_identity import CertificateError, VerificationError
from service_identity.pyopenssl import verify_hostname, verify_ip_address

from ..record.capture import open_private

EXPORTER = b"EXPORTER-Channel-Binding"  # RFC 9266 section 4.2
CHUNK = 1 << 16
UNEXPECTED = "An unexpected TLS packet was received."  # GnuTLS's text, and so QEMU's
CUT_SHORT = "The TLS connection was non-properly terminated."
# OpenSSL's names for a peer that does not speak TLS at all
_NOT_TLS = {
    "wrong version number",
    "http request",
    "https proxy request",
    "unexpected message",
    "packet length too long",
    "record overflow",
    "bad record type",
    "unknown protocol",
    "invalid alert",
    "record layer failure",
}


class TlsError(Exception):
    """Why there is no TLS connection, as the text that the endpoint receives."""


class CredentialsError(ValueError):
    """Which file is missing or wrong, in one sentence."""


@dataclass(frozen=True)
class Credentials:
    """One side's certificates. `hostname` is the name that the source expects; empty: any that the CA has signed."""

    folder: Path
    hostname: str = ""

    def context(self, server: bool, secrets: Callable[[bytes], None] = lambda _: None) -> SSL.Context:
        """Raises CredentialsError. `secrets` receives each line of the key log (NSS format)."""
        name = "server" if server else "client"
        context = SSL.Context(SSL.TLS_SERVER_METHOD if server else SSL.TLS_CLIENT_METHOD)
        context.set_min_proto_version(SSL.TLS1_3_VERSION)
        context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
        steps: tuple[tuple[str, Callable[[str], object]], ...] = (
            ("ca-cert.pem", context.load_verify_locations),
            (f"{name}-cert.pem", context.use_certificate_chain_file),
            (f"{name}-key.pem", context.use_privatekey_file),
        )
        for file, load in steps:
            path = self.folder / file
            if not path.is_file():
                raise CredentialsError(f"{path}: is missing; `simlib certificates {self.folder}` makes a set")
            try:
                load(str(path))
            except SSL.Error:
                raise CredentialsError(f"{path}: is not a PEM file that OpenSSL understands") from None
        if server:
            context.set_alpn_select_callback(_chosen)
        context.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT)
        context.set_keylog_callback(lambda _, line: secrets(line + b"\n"))
        return context


def make_credentials(folder: Path, *hostnames: str) -> Credentials:
    """A new CA with one server and one client; for trials and tests, the CA's own key is thrown away. Raises
    CredentialsError, OSError; a folder with ca-cert.pem has all of them."""
    ca = trustme.CA()
    try:
        server = ca.issue_cert(*(hostnames or ("localhost", "127.0.0.1", "::1")))
    except ValueError as error:
        raise CredentialsError(f"{' '.join(hostnames)}: not the name or the address of a host: {error}") from None
    folder.mkdir(parents=True, exist_ok=True)
    for name, issued in (("server", server), ("client", ca.issue_cert("client"))):
        _write(folder / f"{name}-key.pem", issued.private_key_pem.bytes(), private=True)
        _write(folder / f"{name}-cert.pem", b"".join(c.bytes() for c in issued.cert_chain_pems))
    _write(folder / "ca-cert.pem", ca.cert_pem.bytes())
    return Credentials(folder)


def _write(path: Path, data: bytes, private: bool = False) -> None:
    """Raises OSError that names the file: a full disk's own does not."""
    try:
        with open_private(path) if private else path.open("wb") as file:
            file.write(data)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None


class Tls:
    """One connection. `wire` holds what must go to the peer; the caller takes it away."""

    def __init__(self, context: SSL.Context, server: bool, hostname: str = "", alpn: str = "") -> None:
        self.connection = SSL.Connection(context, None)
        self.connection.set_app_data(alpn.encode())
        if alpn and not server:
            self.connection.set_alpn_protos([alpn.encode()])
        self.hostname = "" if server else hostname
        self.server = server
        self.secured = False
        self.ended = False
        self.failed = ""  # why nothing more can be read
        if server:
            self.connection.set_accept_state()
        else:
            self.connection.set_connect_state()
            if hostname and not _is_address(hostname):
                self.connection.set_tlsext_host_name(hostname.encode())

    def shake(self) -> bool:
        """Go on with the handshake; whether it is done. Raises TlsError."""
        try:
            self.connection.do_handshake()
        except SSL.WantReadError:
            return False
        except SSL.Error as error:
            raise TlsError(_reason(error)) from None
        try:
            if self.hostname and _is_address(self.hostname):
                verify_ip_address(self.connection, self.hostname)
            elif self.hostname:
                verify_hostname(self.connection, self.hostname)
        except (VerificationError, CertificateError):
            raise TlsError(f"Certificate does not match the hostname {self.hostname}") from None
        self.secured = True
        return True

    @property
    def awaits_tickets(self) -> bool:
        """OpenSSL's server sends session tickets behind the handshake, whatever its settings (RFC 8446, 4.6.1)."""
        return self.secured and not self.server

    @property
    def alpn(self) -> str:
        return self.connection.get_alpn_proto_negotiated().decode()

    @property
    def exporter(self) -> bytes:
        return self.connection.export_keying_material(EXPORTER, 32, b"")

    def take(self) -> bytes:
        """What must go to the peer now."""
        data = b""
        try:
            while True:
                data += self.connection.bio_read(CHUNK)
        except (SSL.WantReadError, SSL.Error):
            return data

    def arrived(self, data: bytes) -> None:
        self.connection.bio_write(data)

    def read(self) -> bytes:
        """Plain bytes that are there now. `ended` is set when the peer has sent its last, `failed` to the
        reason why no more can come; both may stand behind bytes."""
        pieces = []
        try:
            while True:
                pieces.append(self.connection.recv(CHUNK))
        except SSL.WantReadError:
            return b"".join(pieces)  # no error: OpenSSL's sign for "that was all so far"
        except SSL.ZeroReturnError:
            self.ended = True
        except SSL.Error as error:
            self.failed = _reason(error)
        return b"".join(pieces)

    def write(self, data: bytes | memoryview) -> None:
        while data:
            data = data[self.connection.send(data[:CHUNK]) :]

    def close(self) -> None:
        """No more from here (close_notify); the peer may go on."""
        with suppress(SSL.Error):  # the handshake may never have got that far
            self.connection.shutdown()


def _chosen(connection: SSL.Connection, offered: list[bytes]) -> bytes | SSL._NoOverlappingProtocols:
    """A server's answer to ALPN: its own, or none; as GnuTLS does, where nothing was set."""
    return own if (own := connection.get_app_data()) in offered else SSL.NO_OVERLAPPING_PROTOCOLS


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _reason(error: SSL.Error) -> str:
    """OpenSSL's reason; GnuTLS's sentence where both mean that the peer does not speak TLS."""
    queue = error.args[0] if error.args and isinstance(error.args[0], list) else []
    reasons = [str(entry[2]) for entry in queue if entry[2]] or [str(error) or "TLS failed"]
    if any(reason in _NOT_TLS for reason in reasons):
        return UNEXPECTED
    return f"TLS handshake failed: {reasons[0]}"
