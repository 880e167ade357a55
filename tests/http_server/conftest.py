import pytest
from tests.http_server.served import IMPATIENT_S


@pytest.fixture
def often_swept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ebbtide.http_server.SWEEP_S", IMPATIENT_S)
