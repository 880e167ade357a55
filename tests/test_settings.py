"""The key that is made on first start, and settings that do not parse."""

import stat
from pathlib import Path

import pytest

from ebbtide.settings import Settings, credentials, default_data_directory


def test_a_key_is_made_once_and_only_its_owner_can_read_it(tmp_path: Path) -> None:
    first = credentials(tmp_path, {})

    assert credentials(tmp_path, {}) == first
    assert stat.S_IMODE((tmp_path / "credentials.json").stat().st_mode) == 0o600


def test_a_key_given_by_the_environment_is_used_and_not_written(tmp_path: Path) -> None:
    given = {"EBBTIDE_ACCESS_KEY_ID": "AKIA", "EBBTIDE_SECRET_ACCESS_KEY": "secret"}

    used = credentials(tmp_path, given)

    assert (used.access_key_id, used.secret_access_key) == ("AKIA", "secret")
    assert list(tmp_path.iterdir()) == []


def test_half_a_key_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="must be given together"):
        credentials(tmp_path, {"EBBTIDE_ACCESS_KEY_ID": "AKIA"})


@pytest.mark.parametrize("kept", ["{", "{}", "[]"])
def test_a_file_that_holds_no_key_is_named(tmp_path: Path, kept: str) -> None:
    (tmp_path / "credentials.json").write_text(kept)

    with pytest.raises(ValueError, match=r"credentials\.json holds no key"):
        credentials(tmp_path, {})


def test_a_setting_that_does_not_parse_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="EBBTIDE_LEASE_S=soon is not a valid float"):
        Settings.from_environment({"EBBTIDE_LEASE_S": "soon"}, data=tmp_path)


@pytest.mark.parametrize("number", ["-1", "0", "nan", "inf"])
def test_a_setting_that_counts_is_above_zero(tmp_path: Path, number: str) -> None:
    with pytest.raises(ValueError, match=f"EBBTIDE_LEASE_S={number} must be above 0"):
        Settings.from_environment({"EBBTIDE_LEASE_S": number}, data=tmp_path)


@pytest.mark.parametrize(
    ("environment", "directory"),
    [
        pytest.param({"EBBTIDE_DATA": "/d"}, "/d", id="given"),
        pytest.param({"XDG_DATA_HOME": "/x"}, "/x/ebbtide", id="XDG"),
    ],
)
def test_data_lies_where_the_environment_says(environment: dict[str, str], directory: str) -> None:
    assert default_data_directory(environment) == Path(directory)


@pytest.mark.parametrize(
    ("environment", "host", "allowed"),
    [
        pytest.param({}, "127.0.0.1", True, id="a server on loopback delivers to loopback"),
        pytest.param({}, "0.0.0.0", False, id="a server for others does not"),
        pytest.param(
            {"EBBTIDE_PRIVATE_DELIVERY": "true"}, "0.0.0.0", True, id="unless its operator allows it"
        ),
        pytest.param({"EBBTIDE_PRIVATE_DELIVERY": "false"}, "localhost", False, id="or forbids it"),
    ],
)
def test_private_addresses_are_told_of_outcomes_only_where_that_is_allowed(
    tmp_path: Path, environment: dict[str, str], host: str, allowed: bool
) -> None:
    assert Settings.from_environment(environment, data=tmp_path, host=host).private_delivery is allowed
