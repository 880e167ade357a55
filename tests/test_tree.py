"""The packages as docs/architecture.md lists them: each imports only what stands above it."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import ebbtide

PACKAGE = Path(ebbtide.__file__).parent
ARCHITECTURE = Path(__file__).parents[1] / "docs" / "architecture.md"


def lines() -> list[list[str]]:
    """The list under "The tree": the packages and modules of each line."""
    (tree,) = re.findall(r"## The tree\n(.*?)\nInside a folder", ARCHITECTURE.read_text(), re.DOTALL)
    listed = []
    for line in re.findall(r"^    (\S.*)$", tree, re.MULTILINE):
        # A name alone has its explanation behind it; several are names only.
        name, _, rest = line.partition(" ")
        names = [name, *rest.split("  ")] if rest.startswith(" ") and "   " not in line else [name]
        listed.append([each.strip().removesuffix("/") for each in names if each.strip()])
    return listed


def imports() -> Iterator[tuple[str, str, str]]:
    """(file, the package it is in, a package that it imports)."""
    for path in PACKAGE.rglob("*.py"):
        place = path.relative_to(PACKAGE)
        own = place.parts[0].removesuffix(".py")
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module == "ebbtide":
                yield from ((str(place), own, alias.name) for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("ebbtide."):
                yield str(place), own, node.module.split(".")[1]


def test_every_package_and_module_is_listed():
    there = {
        path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()
    }

    assert {name for line in lines() for name in line} == there - {"__init__", "__main__", "finetuning"}


def test_imports_point_up_the_list():
    rank = {name: number for number, line in enumerate(lines()) for name in line}
    rank["finetuning"] = rank["evaluation"]

    wrong = [
        f"{file} imports {imported}"
        for file, own, imported in imports()
        if own in rank and rank.get(imported, 0) > rank[own]
    ]

    assert wrong == []


def test_the_runtime_imports_nothing_of_the_rest():
    rest = {name for line in lines()[1:] for name in line} - {"runtime"}

    assert [file for file, own, imported in imports() if own == "runtime" and imported in rest] == []


def test_every_file_that_the_document_names_is_there():
    """A name alone is of the folder that the line named before it."""
    missing = []
    for line in ARCHITECTURE.read_text().splitlines():
        folder = PACKAGE
        for name in re.findall(r"`((?:\w+/)*(?:\w+\.(?:py|toml)|\w+/))`", line):
            places = [root / name for root in (PACKAGE, folder, ARCHITECTURE.parents[1])]
            found = next((place for place in places if place.exists()), None)
            if found is not None:
                folder = found.parent
            elif name != "code/inference.py":  # a model's
                missing.append(name)

    assert missing == []
