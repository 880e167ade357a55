"""Signatures of messages, and the key and certificate behind them.

A receiver rebuilds the text that was signed from the message, fetches the certificate that the message
names and checks the signature against its key. Many verifiers insist that the certificate come from
`sns.REGION.amazonaws.com` by https: those no server but Amazon's own can satisfy.
"""

import base64
import threading
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from ebbtide.settings import write_private

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

CERTIFICATE_PATH = "/_ebbtide/sns/certificate.pem"

_SIGNED = {
    "Notification": ("Message", "MessageId", "Subject", "Timestamp", "TopicArn", "Type"),
    "SubscriptionConfirmation": (
        "Message",
        "MessageId",
        "SubscribeURL",
        "Timestamp",
        "Token",
        "TopicArn",
        "Type",
    ),
}
"""Message type -> the members that are signed, in their order; those absent are left out."""


def text_to_sign(envelope: Mapping[str, object]) -> str:
    """The text that a message's signature covers. Source: Amazon SNS developer guide, "Verifying the
    signatures of Amazon SNS messages".
    """
    names = _SIGNED[str(envelope["Type"])]
    return "".join(f"{name}\n{envelope[name]}\n" for name in names if name in envelope)


class Signer:
    """An RSA key of 2,048 bits with its self-made certificate, kept in a directory of the server's data.

    Both are made when first asked for. Safe to use from several threads. share: given ours, it returns those
    that all servers beside one database sign with.
    """

    def __init__(self, root: Path, share: Callable[[str], str] | None = None) -> None:
        self._root = root
        self._share = share
        self._lock = threading.Lock()
        self._loaded: tuple[RSAPrivateKey, bytes] | None = None

    def sign(self, text: str, version: str) -> str:
        """The signature in base64. Version "1" is SHA1withRSA, "2" is SHA256withRSA."""
        from cryptography.hazmat.primitives import hashes
        from cryptography.hazmat.primitives.asymmetric import padding

        # SHA-1 is what SNS's own version 1 is defined with, and still its default.
        digest = hashes.SHA256() if version == "2" else hashes.SHA1()  # noqa: S303
        key, _ = self._load()
        return base64.b64encode(key.sign(text.encode(), padding.PKCS1v15(), digest)).decode()

    def certificate_pem(self) -> bytes:
        """The certificate that messages' SigningCertURL leads to."""
        return self._load()[1]

    def _load(self) -> "tuple[RSAPrivateKey, bytes]":
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

        with self._lock:
            if self._loaded is None:
                path = self._root / "signing.pem"
                if not path.exists():
                    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                    write_private(path, _make())
                kept = path.read_bytes()
                if self._share is not None:
                    kept = self._share(kept.decode()).encode()
                key = serialization.load_pem_private_key(kept, password=None)
                assert isinstance(key, RSAPrivateKey)
                self._loaded = key, kept[kept.index(b"-----BEGIN CERTIFICATE-----") :]
            return self._loaded


def _make() -> bytes:
    """A new key and its certificate, one PEM text after the other."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import rsa
    from cryptography.x509.oid import NameOID

    key = rsa.generate_private_key(public_exponent=65_537, key_size=2_048)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "ebbtide notifications")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        # It only carries the key to verifiers, who trust it for where they fetched it: no need to expire.
        .not_valid_before(datetime(2020, 1, 1, tzinfo=UTC))
        .not_valid_after(datetime(2099, 12, 31, tzinfo=UTC))
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return private + certificate.public_bytes(serialization.Encoding.PEM)
