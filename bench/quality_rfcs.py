"""RFCs with the abstracts that their authors wrote: the standards and the experimental ones, out of Debian's
packages.

The packages are in Debian's non-free part, for an RFC may be copied and read but not modified. A list of
sources of its own fetches them, so that the machine's need not name that part; nothing is installed. An RFC
is kept by the rules of the other articles (bench/quality_data.py), but for the number of pages.

Nothing was ever set on them: all are held out.
"""

import gzip
import hashlib
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict
from itertools import groupby
from pathlib import Path

from bench import quality_data
from bench.quality_data import FOLDER, Article, is_kept

PACKAGES = ("doc-rfc-std", "doc-rfc-experimental")
SOURCES = (
    "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] "
    "http://deb.debian.org/debian bookworm non-free\n"
)

_ABSTRACT = re.compile(r"\d*\.?\s*abstract\.?", re.IGNORECASE)
_HEADING = re.compile(r"(?:\d+\.)+\d*\s+\S|\d+\s+[A-Z]")
_NUMBER = re.compile(r"[\d.]+\s+")
_PAGE = re.compile(r"\[Page \d+\]\s*$")
_RUNNING_HEAD = re.compile(r"RFC \d+\s.*\d{4}\s*$")
_LEADERS = re.compile(r"\.\s?\.\s?\.\s?\.")
_END = re.compile(
    r"(?:normative |informative )?references|acknowledge?ments?|author'?s?'? address(?:es)?", re.IGNORECASE
)


def rfcs() -> list[Article]:
    """Those with an abstract, in the order of their numbers."""
    archives = _fetched()
    made_of = hashlib.sha256("".join(archive.name for archive in archives).encode())
    made_of.update(Path(__file__).read_bytes() + Path(quality_data.__file__).read_bytes())
    cached = FOLDER / f"rfcs-{made_of.hexdigest()[:16]}.jsonl"
    if not cached.exists():
        found = [one for file in _extracted(archives) if (one := _article(file))]
        unfinished = cached.with_suffix(".unfinished")
        unfinished.write_text("".join(json.dumps(asdict(one)) + "\n" for one in found))
        unfinished.rename(cached)
    return [Article(**json.loads(line)) for line in cached.read_text().splitlines()]


def _fetched() -> list[Path]:
    folder = FOLDER / "non-free"
    (folder / "lists/partial").mkdir(parents=True, exist_ok=True)
    missing = [name for name in PACKAGES if not list(folder.glob(f"{name}_*.deb"))]
    if missing:
        print(f"fetching {len(missing)} packages into {folder}", file=sys.stderr)
        sources = folder / "sources.list"
        sources.write_text(SOURCES)
        options = {
            "Dir::Etc::SourceList": sources,
            "Dir::Etc::SourceParts": "-",
            "Dir::State::Lists": folder / "lists",
            "Dir::Cache": folder,
        }
        apt = ["apt-get", "-qq", *(f"-o{name}={value}" for name, value in options.items())]
        subprocess.run([*apt, "update"], check=True)
        subprocess.run([*apt, "download", *missing], cwd=folder, check=True)
    return [next(folder.glob(f"{name}_*.deb")) for name in PACKAGES]


def _extracted(archives: list[Path]) -> list[Path]:
    """The RFCs' texts by number: a standard has several names."""
    numbered: dict[int, Path] = {}
    for archive in archives:
        into = FOLDER / "files" / archive.stem
        if not into.exists():
            unfinished = into.with_suffix(".unfinished")
            unfinished.mkdir(parents=True, exist_ok=True)
            subprocess.run(["dpkg-deb", "--extract", archive, unfinished], check=True)
            unfinished.rename(into)
        numbered |= {int(path.name[3:].split(".")[0]): path for path in into.rglob("rfc[0-9]*.txt.gz")}
    return [numbered[number] for number in sorted(numbered)]


def _article(file: Path) -> Article | None:
    text = gzip.decompress(file.read_bytes()).decode("utf-8", "replace")
    described = json.loads(file.with_name(file.name.replace(".txt.gz", ".json")).read_text())
    sections = list(_sections(text))
    abstract = next((said for heading, said in sections if _ABSTRACT.fullmatch(heading)), "")
    first = next((n for n, (heading, _) in enumerate(sections) if _HEADING.match(heading)), len(sections))
    body = []
    for heading, said in sections[first:]:
        name = _NUMBER.sub("", heading, count=1)
        if _END.fullmatch(name):
            break
        if not _ABSTRACT.fullmatch(heading):
            body.append(f"# {name}\n\n{said}")
    if not is_kept(" ".join(abstract.split()), "\n\n".join(body)):
        return None
    title = f"# {described['title'].strip()}\n\n"
    name = file.name.split(".")[0]
    return Article(name, name, title + "\n\n".join(body), " ".join(abstract.split()))


def _sections(text: str) -> Iterator[tuple[str, str]]:
    """Headings, which are the lines that begin at the left margin, each with the paragraphs below it."""
    heading, below = "", list[str]()
    for line in _lines(text):
        if line and not line[0].isspace():
            yield heading, _paragraphs(below)
            heading, below = line.strip(), []
        else:
            below.append(line.strip())
    yield heading, _paragraphs(below)


def _lines(text: str) -> Iterator[str]:
    """Without page breaks, tables of contents and pictures."""
    for line in text.replace("\f", "\n").splitlines():
        if not (_PAGE.search(line) or _RUNNING_HEAD.match(line) or _LEADERS.search(line)):
            yield line.rstrip()


def _paragraphs(lines: list[str]) -> str:
    """One that goes on over a page break is one again."""
    found: list[str] = []
    for filled, block in groupby(lines, key=bool):
        if not filled:
            continue
        joined = " ".join(block)
        if found and joined[0].islower() and found[-1][-1] not in ".:;!?":
            found[-1] += f" {joined}"
        else:
            found.append(joined)
    return "\n\n".join(found)
