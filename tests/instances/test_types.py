"""What the name of an instance type stands for."""

from pathlib import Path

import pytest

from ebbtide.instances.types import InstanceType, InstanceTypes


@pytest.mark.parametrize(
    ("name", "stands_for"),
    [
        pytest.param("ml.m5.xlarge", InstanceType("ml.m5.xlarge", 4, 16.0, 0, 0.23), id="a CPU type"),
        pytest.param("ml.g4dn.xlarge", InstanceType("ml.g4dn.xlarge", 4, 16.0, 1, 0.736), id="a GPU type"),
        pytest.param("ml.z9.mega", InstanceType("ml.z9.mega"), id="a new one, with no price"),
        pytest.param("ml.g9.xlarge", InstanceType("ml.g9.xlarge", gpus=1), id="a new one of a GPU family"),
    ],
)
def test_a_type(name, stands_for):
    assert InstanceTypes().get(name) == stands_for


def test_an_operators_file_adds_types_and_changes_prices(tmp_path: Path):
    file = tmp_path / "types.toml"
    file.write_text(
        '"my.laptop" = { vcpus = 2, memory_gib = 4 }\n'
        '"ml.m5.xlarge" = { vcpus = 4, memory_gib = 16, price_per_hour = 0.1 }\n'
    )

    types = InstanceTypes(file)

    assert types.get("my.laptop") == InstanceType("my.laptop", 2, 4.0)
    assert types.get("ml.m5.xlarge").price_per_hour == 0.1
    assert types.get("ml.m5.large").price_per_hour == 0.115


def test_a_file_that_is_not_there_or_not_toml_is_named(tmp_path: Path):
    (tmp_path / "types.toml").write_text("= 3")

    with pytest.raises(ValueError, match=r"none.toml cannot be read: No such file or directory"):
        InstanceTypes(tmp_path / "none.toml")
    with pytest.raises(ValueError, match=r"types.toml is not TOML"):
        InstanceTypes(tmp_path / "types.toml")


@pytest.mark.parametrize(
    "text",
    [
        pytest.param('"my.type" = { vcpus = 2 }', id="a member is missing"),
        pytest.param('"my.type" = { vcpus = "two", memory_gib = 4 }', id="a member is no number"),
        pytest.param('"my.type" = 2', id="not a table"),
    ],
)
def test_a_broken_entry_is_refused_by_name(tmp_path: Path, text):
    file = tmp_path / "types.toml"
    file.write_text(text)

    with pytest.raises(ValueError, match=r"types.toml: instance type my.type needs vcpus and memory_gib"):
        InstanceTypes(file)
