"""The operator's setting of a mail server."""

import pytest

from ebbtide.notifications.mail import MailServer, Undelivered, parse_smtp_url, send


@pytest.mark.parametrize(
    ("url", "server"),
    [
        pytest.param(
            "smtp://mail.example.com",
            MailServer("mail.example.com", 587, "starttls", None, None, "no-reply@mail.example.com"),
            id="a host",
        ),
        pytest.param(
            "smtps://me%40example.com:p%2Fw@mail.example.com",
            MailServer("mail.example.com", 465, "tls", "me@example.com", "p/w", "me@example.com"),
            id="a user who is the sender, and TLS",
        ),
        pytest.param(
            "smtp://user:pw@mail.example.com:25?from=ebbtide@example.com",
            MailServer("mail.example.com", 25, "starttls", "user", "pw", "ebbtide@example.com"),
            id="a port and a sender",
        ),
    ],
)
def test_an_smtp_url_says_where_mail_goes(url, server):
    assert parse_smtp_url(url) == server


@pytest.mark.parametrize(
    "url", ["mail.example.com", "http://mail.example.com", "smtp://", "smtp://host:port"]
)
def test_what_is_no_smtp_url_is_refused(url):
    with pytest.raises(ValueError):
        parse_smtp_url(url)


def test_a_password_is_not_sent_to_a_server_without_encryption(mail):
    server = parse_smtp_url(mail.url.replace("smtp://", "smtp://user:secret@"))

    with pytest.raises(Undelivered, match="not sent in the clear") as caught:
        send(server, "reader@example.com", "Subject", "Body", sender_name="Topic")

    assert not caught.value.final, "the operator can mend it, and then the mail goes"
    assert b"AUTH" not in mail.commands
    assert b"MAIL" not in mail.commands
