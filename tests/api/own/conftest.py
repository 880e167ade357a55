"""What tests of our own API share: a session of the operator's, and its client."""

import pytest

import ebbtide as package
from ebbtide.client import Client
from ebbtide.pytest_plugin import Ebbtide


@pytest.fixture(scope="session")
def session(ebbtide: Ebbtide) -> package.Session:
    return package.connect(data=ebbtide.data)


@pytest.fixture(scope="session")
def own(session: package.Session) -> Client:
    return session.ebbtide
