"""English articles with the abstracts that their authors wrote, out of the PDFs of Debian's packages.

Vignettes of R packages, many of them published in the Journal of Statistical Software or The R Journal, and
manuals of LaTeX packages. They are fetched and read once, into build/quality; nothing is installed. What is
kept, by the rules below, depends on nothing but the packages' versions and ebbtide's own PDF reader.

The development part is what the extractive summariser's weights were set on; the held-out part, works that it
shares no package with, was only ever scored. Which part a work is in follows from its name.
"""

import hashlib
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

from ebbtide.runtime.errors import BadRequest
from ebbtide.runtime.extractive import STOP_WORDS, WORD, prose, split_sentences

FOLDER = Path(__file__).parents[1] / "build/quality"

R_PACKAGES = """
    aer bms bradleyterry2 brms clue coin colorspace dbscan desolve distr effects elliptic
    fitdistrplus flexmix forecast formula gmm gsl gstat gwidgets hypergeo kernlab laeken lme4
    maldiquant metafor mixtools mlmrev mnp msm multcomp network optimx party partykit plotmo pls
    pscl psych psychotools psychotree quantreg rcpp rcpparmadillo rcppeigen rmpfr rprotobuf sandwich
    seriation sets sp spacetime sparsem strucchange surveillance tgp tsp vcd vegan zoo
""".split()  # noqa: SIM905
PACKAGES = (
    *(
        f"texlive-{name}-doc"
        for name in ("humanities", "latex-recommended", "pictures", "publishers", "science")
    ),
    *(f"r-bioc-{name}" for name in ("biocstyle", "deseq", "purecn")),
    *(f"r-cran-{name}" for name in R_PACKAGES),
)

MOST_PAGES, MOST_WORDS, LEAST_WORDS = 60, 15_000, 300
"""Of an article. The least is of prose: a list of commands is none."""
ABSTRACT_WORDS, ABSTRACT_SENTENCES = range(20, 401), 2
ENGLISH = 0.25
"""The share of English stop words in an article's words, below which it is in another language."""

_ABSTRACT = re.compile(r"(?:#+\s*)?(?:\d+\.?\s+)?abstract\b[\s.:—–-]*", re.IGNORECASE)
_KEYWORDS = re.compile(r"\bkey ?words?(?: and phrases)?\s*[:—.–-]", re.IGNORECASE)
_AFTER = re.compile(
    r"(?:key ?words?|contents|(?:\d+\.?\s*)?introduction|index terms|jel|intended audience|\d{4}-\d\d-\d\d)\b"
    r"|[∗*†‡]|(?:1|I)\.?\s+[A-Z]",
    re.IGNORECASE,
)
_CONTENTS = re.compile(r"(?:#+\s*)?(?:contents|key ?words?)\b", re.IGNORECASE)
_HEADING_WORDS = 15


@dataclass(frozen=True, slots=True)
class Article:
    """`text`: the title as a heading and the body, without abstract, keywords and table of contents.

    `work`: the package that it is about.
    """

    file: str
    work: str
    text: str
    abstract: str

    @property
    def held_out(self) -> bool:
        return hashlib.sha256(self.work.encode()).digest()[0] % 2 == 1


def articles() -> list[Article]:
    """All of them, in the order of their files."""
    archives = _fetched()
    made_of = hashlib.sha256("".join(archive.name for archive in archives).encode())
    for source in (Path(__file__), *sorted(_reader().rglob("*.py"))):
        made_of.update(source.read_bytes())
    cached = FOLDER / f"articles-{made_of.hexdigest()[:16]}.jsonl"
    if not cached.exists():
        found = _distinct(_read(_extracted(archives)))
        unfinished = cached.with_suffix(".unfinished")
        unfinished.write_text("".join(json.dumps(asdict(one)) + "\n" for one in found))
        unfinished.rename(cached)
    return [Article(**json.loads(line)) for line in cached.read_text().splitlines()]


def _reader() -> Path:
    from ebbtide.runtime import documents

    return Path(documents.__path__[0])


def _fetched() -> list[Path]:
    """The packages' archives, as apt-get of the machine gets them."""
    folder = FOLDER / "packages"
    folder.mkdir(parents=True, exist_ok=True)
    missing = [name for name in PACKAGES if not list(folder.glob(f"{name}_*.deb"))]
    if missing:
        print(f"fetching {len(missing)} packages into {folder}", file=sys.stderr)
        subprocess.run(["apt-get", "download", "-qq", *missing], cwd=folder, check=True)
    return [next(iter(sorted(folder.glob(f"{name}_*.deb")))) for name in PACKAGES]


def _extracted(archives: list[Path]) -> list[Path]:
    folder = FOLDER / "files"
    for archive in archives:
        into = folder / archive.stem
        if into.exists():
            continue
        unfinished = into.with_suffix(".unfinished")
        unfinished.mkdir(parents=True, exist_ok=True)
        packed = subprocess.Popen(["dpkg", "--fsys-tarfile", archive], stdout=subprocess.PIPE)
        unpack = ["tar", "--extract", "--directory", unfinished, "--wildcards", "*.pdf"]
        # tar fails where an archive has no PDF; then there is nothing to read.
        subprocess.run(unpack, stdin=packed.stdout, stderr=subprocess.DEVNULL, check=False)
        if packed.wait():
            raise SystemExit(f"{archive} cannot be unpacked")
        unfinished.rename(into)
    return sorted(path for archive in archives for path in (folder / archive.stem).rglob("*.pdf"))


def _read(files: list[Path]) -> Iterator[Article]:
    print(f"reading {len(files)} PDFs, once", file=sys.stderr)
    with ProcessPoolExecutor() as pool:
        yield from filter(None, pool.map(_article, files, chunksize=4))


def _distinct(found: Iterator[Article]) -> list[Article]:
    """One of those that begin with the same abstract."""
    kept: dict[str, Article] = {}
    for one in found:
        kept.setdefault(one.abstract[:80].lower(), one)
    return list(kept.values())


def _article(file: Path) -> Article | None:
    import pypdfium2

    from ebbtide.runtime.documents import pdf

    body = file.read_bytes()
    try:
        opened = pypdfium2.PdfDocument(body)
        first_pages = "".join(
            opened[number].get_textpage().get_text_range() for number in range(min(2, len(opened)))
        )
        if len(opened) > MOST_PAGES or "abstract" not in first_pages.lower():
            return None
        document = pdf.read(body)
    except (pypdfium2.PdfiumError, BadRequest):
        return None
    divided = _divided(document.text)
    if divided is None or not is_kept(*divided):
        return None
    abstract, text = divided
    if document.title:
        text = f"# {document.title}\n\n{text}"
    inside = file.relative_to(FOLDER / "files").parts
    work = inside[-3] if "site-library" in inside else inside[-2]
    return Article("/".join(inside[1:]), work, text, abstract)


def _divided(text: str) -> tuple[str, str] | None:
    """The abstract and the body after it; None where no abstract begins or none ends."""
    blocks = text.split("\n\n")
    at = next((i for i, block in enumerate(blocks[:60]) if _ABSTRACT.match(block)), None)
    if at is None:
        return None
    held = [_ABSTRACT.sub("", blocks[at], count=1)]
    end = at + 1
    while end < len(blocks) and not _AFTER.match(blocks[end]):
        block = blocks[end]
        if block.startswith("#") and len(block.split()) <= _HEADING_WORDS:
            break
        held.append(block.lstrip("# "))
        end += 1
    abstract = _KEYWORDS.split(" ".join(" ".join(held).split()))[0].strip()
    body = [block for block in blocks[end:] if ". . ." not in block and not _CONTENTS.match(block)]
    return abstract, "\n\n".join(body)


def is_kept(abstract: str, body: str) -> bool:
    """Whether both have the lengths above and are English."""
    if len(WORD.findall(abstract)) not in ABSTRACT_WORDS or len(body.split()) > MOST_WORDS:
        return False
    words = WORD.findall(" ".join(prose(body)).lower())
    return (
        len(list(split_sentences(abstract))) >= ABSTRACT_SENTENCES
        and len(words) >= LEAST_WORDS
        and sum(word in STOP_WORDS for word in words) >= ENGLISH * len(words)
    )
