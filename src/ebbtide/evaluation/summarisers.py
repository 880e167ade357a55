"""What is compared: any model that ebbtide serves, the extractive summariser, and an article's beginning."""

import json
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from ebbtide.archives import unpack
from ebbtide.runtime import loading, status
from ebbtide.runtime.contract import Echo
from ebbtide.runtime.deployment import HUGGING_FACE, Deployment
from ebbtide.runtime.errors import LoadFailure
from ebbtide.runtime.extractive import split_sentences, summarise

Summarise = Callable[[Sequence[str]], Iterator[str]]
"""Given all articles, yields their summaries in that order."""

BATCH = 16
"""Articles given to a model together."""


def lead(sentences: int) -> Summarise:
    """The article's first sentences: what every summariser of news is held against."""

    def first(articles: Sequence[str]) -> Iterator[str]:
        for article in articles:
            yield " ".join(islice(split_sentences(article), sentences))

    return first


def extractive(articles: Sequence[str]) -> Iterator[str]:
    """The built-in one, as it answers a request without parameters."""
    return (summarise(article) for article in articles)


def model(
    name: str,
    *,
    task: str,
    parameters: Mapping[str, Any],
    environment: Mapping[str, str],
    cache: Path,
    unpacked: Path,
    threads: int,
) -> Summarise:
    """A model as an instance would serve it, loaded in this process.

    name: a Hub id, a directory in the Hub's layout, or a model.tar.gz, which is unpacked into `unpacked`.
    Raises LoadFailure when it cannot be served, and on use RefusedArticle for an article it refuses.
    """
    archive = name.endswith(".tar.gz")
    if archive:
        unpack(Path(name), unpacked)
    deployment = Deployment(
        repository=HUGGING_FACE,
        model_dir=unpacked if archive else None,
        cache=cache,
        environment={
            **environment,
            "HF_TASK": task,
            "OMP_NUM_THREADS": str(threads),
            **({} if archive else {"HF_MODEL_ID": name}),
        },
    )
    served = loading.load(deployment, status.StatusFile(cache / f"{unpacked.name}.status"))
    if isinstance(served, Echo):
        raise LoadFailure(f"{name} summarises nothing")

    def run(articles: Sequence[str]) -> Iterator[str]:
        for first in range(0, len(articles), BATCH):
            group = list(articles[first : first + BATCH])
            body = json.dumps({"inputs": group, "parameters": dict(parameters)}).encode()
            answer = served.answer(body, {"Content-Type": "application/json"}, threading.Event())
            found = json.loads(answer.body)
            if answer.status != 200:
                raise RefusedArticle(str(found.get("message", found)))
            for item in found:
                yield next(iter(item.values()))

    return run


class RefusedArticle(Exception):
    """The model refuses an article. The message is the one that its callers get."""
