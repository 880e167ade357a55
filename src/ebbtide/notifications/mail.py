"""Messages by mail, through the operator's SMTP server.

What speaks SMTP is imported when the first mail is sent: most servers send none.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, unquote, urlsplit

from ebbtide.notifications.outbox import Undelivered

if TYPE_CHECKING:
    import smtplib
    from email.message import EmailMessage

TIMEOUT_S = 15.0
PERMANENT = 500
"""SMTP's replies from here on will be the same next time (RFC 5321, 4.2.1)."""
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
        raise ValueError(
            "EBBTIDE_SMTP_URL is not of the form smtp[s]://[USER:PASSWORD@]HOST[:PORT][?from=ADDRESS]"
        )
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


def send(server: MailServer, recipient: str, subject: str, body: str, *, sender_name: str) -> None:
    """Hand over one mail of plain text; blocks up to 15 s for each step of the exchange.

    Raises Undelivered.
    """
    import smtplib

    mail = _compose(server, recipient, subject, body, sender_name)
    try:
        with _connect(server) as connection:
            connection.send_message(mail)
    except smtplib.SMTPRecipientsRefused as error:
        refused = all(code >= PERMANENT for code, _ in error.recipients.values())
        raise Undelivered(f"recipient refused: {error.recipients}", final=refused) from error
    except smtplib.SMTPAuthenticationError as error:
        # The operator's to mend, and then the mail can go.
        raise Undelivered(f"the mail server refuses our password: {error.smtp_error!r}") from error
    except smtplib.SMTPResponseException as error:
        reason = f"the mail server answered {error.smtp_code}: {error.smtp_error!r}"
        raise Undelivered(reason, final=error.smtp_code >= PERMANENT) from error
    except (OSError, smtplib.SMTPException) as error:
        raise Undelivered(f"mail server {server.host}:{server.port}: {error}") from error


def _compose(server: MailServer, recipient: str, subject: str, body: str, sender_name: str) -> "EmailMessage":
    from email.headerregistry import Address
    from email.message import EmailMessage

    mail = EmailMessage()
    try:
        mail["From"] = Address(sender_name, addr_spec=server.sender)
        mail["To"] = recipient
        mail["Subject"] = subject
    except ValueError as error:
        raise Undelivered(f"no mail can be addressed so: {error}", final=True) from error
    mail.set_content(body)
    return mail


def _connect(server: MailServer) -> "smtplib.SMTP":
    import smtplib
    import ssl

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
            elif server.user is not None:
                # Who takes the offer out of the greeting on its way must not learn the password.
                raise Undelivered(
                    f"{server.host} offers no STARTTLS, and the password is not sent in the clear"
                )
        if server.user is not None:
            connection.login(server.user, server.password or "")
    except BaseException:
        connection.close()
        raise
    return connection
