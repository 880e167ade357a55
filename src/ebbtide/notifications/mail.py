"""Messages by mail, through the operator's SMTP server."""

import smtplib
import ssl
from dataclasses import dataclass
from email.headerregistry import Address
from email.message import EmailMessage
from urllib.parse import parse_qs, unquote, urlsplit

from ebbtide.notifications.outbox import Undelivered

TIMEOUT_S = 15.0
PORTS = {"smtp": 587, "smtps": 465}
SENDER_NAME = "AWS Notifications"
DEFAULT_SUBJECT = "AWS Notification Message"
CONFIRMATION_SUBJECT = "AWS Notification - Subscription Confirmation"


@dataclass(frozen=True, slots=True)
class MailServer:
    """Where mail is handed over. `encryption`: "tls" from the first byte, else "starttls" where offered."""

    host: str
    port: int
    encryption: str
    user: str | None
    password: str | None
    sender: str


def parse_smtp_url(url: str) -> MailServer:
    """Read `smtp[s]://[USER:PASSWORD@]HOST[:PORT][?from=ADDRESS]`.

    Ports are 587 and, for smtps, 465 unless given; without `from`, mail comes from USER if that is an
    address, else from no-reply@HOST. Raises ValueError.
    """
    parts = urlsplit(url)
    if parts.scheme not in PORTS or not parts.hostname:
        raise ValueError("an SMTP URL is smtp[s]://[USER:PASSWORD@]HOST[:PORT][?from=ADDRESS]")
    user = None if parts.username is None else unquote(parts.username)
    password = None if parts.password is None else unquote(parts.password)
    named = user if user and "@" in user else f"no-reply@{parts.hostname}"
    return MailServer(
        host=parts.hostname,
        port=parts.port or PORTS[parts.scheme],
        encryption="tls" if parts.scheme == "smtps" else "starttls",
        user=user,
        password=password,
        sender=parse_qs(parts.query).get("from", [named])[0],
    )


def compose(server: MailServer, recipient: str, subject: str, body: str, *, sender_name: str) -> EmailMessage:
    """A mail of plain text."""
    mail = EmailMessage()
    mail["From"] = Address(sender_name, addr_spec=server.sender)
    mail["To"] = recipient
    mail["Subject"] = subject
    mail.set_content(body)
    return mail


def send(server: MailServer, mail: EmailMessage) -> None:
    """Hand one mail over; blocks up to 15 s for each step of the exchange. Raises Undelivered."""
    try:
        with _connect(server) as connection:
            connection.send_message(mail)
    except smtplib.SMTPRecipientsRefused as error:
        codes = [code for code, _ in error.recipients.values()]
        raise Undelivered(
            f"Recipient refused: {error.recipients}", final=all(c >= 500 for c in codes)
        ) from error
    except smtplib.SMTPResponseException as error:
        refused = error.smtp_code >= 500 and not isinstance(error, smtplib.SMTPAuthenticationError)
        raise Undelivered(
            f"Mail server answered {error.smtp_code}: {error.smtp_error!r}", final=refused
        ) from error
    except (OSError, smtplib.SMTPException) as error:
        raise Undelivered(f"Mail server {server.host}:{server.port}: {error}") from error


def _connect(server: MailServer) -> smtplib.SMTP:
    if server.encryption == "tls":
        connection: smtplib.SMTP = smtplib.SMTP_SSL(
            server.host, server.port, timeout=TIMEOUT_S, context=ssl.create_default_context()
        )
    else:
        connection = smtplib.SMTP(server.host, server.port, timeout=TIMEOUT_S)
    try:
        if server.encryption == "starttls":
            connection.ehlo()
            if connection.has_extn("starttls"):
                connection.starttls(context=ssl.create_default_context())
        if server.user is not None:
            connection.login(server.user, server.password or "")
    except BaseException:
        connection.close()
        raise
    return connection
