"""Signatures of messages, checked as a receiver checks them: with the certificate's key."""

import base64
import stat

import pytest
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding

from ebbtide.notifications.signing import Signer, text_to_sign


@pytest.fixture(scope="module")
def signer(tmp_path_factory):
    return Signer(tmp_path_factory.mktemp("data") / "sns")


@pytest.mark.parametrize(("version", "digest"), [("1", hashes.SHA1()), ("2", hashes.SHA256())])
def test_a_receiver_can_verify_a_signature(signer, version, digest):
    signature = base64.b64decode(signer.sign("a text", version))

    key = x509.load_pem_x509_certificate(signer.certificate_pem()).public_key()

    key.verify(signature, b"a text", padding.PKCS1v15(), digest)
    with pytest.raises(InvalidSignature):
        key.verify(signature, b"another text", padding.PKCS1v15(), digest)


def test_the_key_is_kept_and_readable_by_its_owner_only(tmp_path):
    first = Signer(tmp_path / "sns").certificate_pem()

    [kept] = (tmp_path / "sns").iterdir()

    assert Signer(tmp_path / "sns").certificate_pem() == first
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert b"PRIVATE" not in first


def test_the_text_to_sign_of_a_notification_names_its_members_in_order():
    envelope = {
        "Type": "Notification",
        "MessageId": "id",
        "TopicArn": "arn",
        "Subject": "subject",
        "Message": "message",
        "Timestamp": "time",
        "UnsubscribeURL": "url",
    }

    assert text_to_sign(envelope) == (
        "Message\nmessage\nMessageId\nid\nSubject\nsubject\nTimestamp\ntime\nTopicArn\narn\nType\nNotification\n"
    )


def test_a_notification_without_subject_is_signed_without_it():
    envelope = {
        "Type": "Notification",
        "MessageId": "id",
        "TopicArn": "arn",
        "Message": "m",
        "Timestamp": "t",
    }

    assert "Subject" not in text_to_sign(envelope)


def test_the_text_to_sign_of_a_confirmation_holds_its_token_and_link():
    envelope = {
        "Type": "SubscriptionConfirmation",
        "MessageId": "id",
        "Token": "token",
        "TopicArn": "arn",
        "Message": "m",
        "SubscribeURL": "url",
        "Timestamp": "time",
    }

    assert text_to_sign(envelope) == (
        "Message\nm\nMessageId\nid\nSubscribeURL\nurl\nTimestamp\ntime\nToken\ntoken\nTopicArn\narn\n"
        "Type\nSubscriptionConfirmation\n"
    )
