"""Which operation a REST request asks for, by method, path and query.

S3 has many operations on one path: PUT /BUCKET/KEY is PutObject, CopyObject, UploadPart or
UploadPartCopy. The one that asks for most of what the request carries is meant: literal query
arguments of its path template, then required query arguments and headers.
"""

import re
from dataclasses import dataclass, replace
from functools import cache
from typing import Any
from urllib.parse import parse_qsl, unquote

from ebbtide.errors import ServiceError
from ebbtide.wire.models import Operation, Service
from ebbtide.wire.request import Request


@dataclass(frozen=True, slots=True)
class _Candidate:
    operation: str
    literals: frozenset[tuple[str, str]]
    required_arguments: frozenset[str]
    required_headers: frozenset[str]

    def fits(self, request: Request) -> bool:
        arguments = request.arguments
        return (
            self.required_headers <= request.headers.keys()
            and self.required_arguments <= arguments.keys()
            and not any(value not in arguments.get(name, ()) for name, value in self.literals)
        )


@dataclass(frozen=True, slots=True)
class _Route:
    pattern: re.Pattern[str]
    candidates: tuple[_Candidate, ...]


def route(service: Service, request: Request, path: str) -> tuple[Operation, dict[str, str]] | None:
    """The operation and its decoded path labels, None when no operation has that method, path and query.

    path: the request's, with S3's bucket in front also where the host's name holds it.
    Raises ServiceError for a path that is not UTF-8.
    """
    for known in _routes(service).get(request.method, ()):
        labels = known.pattern.fullmatch(path)
        if labels is None:
            continue
        for candidate in known.candidates:
            if candidate.fits(request):
                return service.operation(candidate.operation), _decoded(labels.groupdict())
    return None


def _decoded(labels: dict[str, str]) -> dict[str, str]:
    try:
        return {name: unquote(text, errors="strict") for name, text in labels.items()}
    except UnicodeDecodeError as error:
        raise ServiceError("Couldn't parse the specified URI.", code="InvalidURI") from error


@cache
def _routes(service: Service) -> dict[str, list[_Route]]:
    """Routes by method, those with fewest labels first, each with its most demanding candidates first."""
    grouped: dict[tuple[str, str], list[_Candidate]] = {}
    # Where two operations ask for the same, the one that replaced the deprecated other is meant.
    in_order = sorted(service.operations.items(), key=lambda item: bool(item[1].get("deprecated")))
    for name, raw in in_order:
        path, _, literals = raw["http"]["requestUri"].partition("?")
        candidate = _candidate(service, name, raw, literals)
        grouped.setdefault((raw["http"]["method"], path), []).append(candidate)
    routes: dict[str, list[_Route]] = {}
    for (method, path), candidates in sorted(grouped.items(), key=lambda item: item[0][1].count("{")):
        candidates = [_without_needless_headers(each, candidates) for each in candidates]
        candidates.sort(
            key=lambda c: (len(c.literals), len(c.required_arguments) + len(c.required_headers)), reverse=True
        )
        routes.setdefault(method, []).append(_Route(_pattern(path), tuple(candidates)))
    return routes


def _without_needless_headers(candidate: _Candidate, all_of_path: list[_Candidate]) -> _Candidate:
    """Headers tell apart operations of one query; where there is none to tell apart, a lack is an error."""
    alike = [
        each
        for each in all_of_path
        if each.literals == candidate.literals and each.required_arguments == candidate.required_arguments
    ]
    return candidate if len(alike) > 1 else replace(candidate, required_headers=frozenset())


def _candidate(service: Service, name: str, raw: dict[str, Any], literals: str) -> _Candidate:
    required = service.required_members(raw["input"]["shape"]) if "input" in raw else []
    return _Candidate(
        operation=name,
        literals=frozenset(parse_qsl(literals, keep_blank_values=True)),
        required_arguments=frozenset(
            m["locationName"] for m in required if m.get("location") == "querystring"
        ),
        required_headers=frozenset(
            m["locationName"].lower() for m in required if m.get("location") == "header"
        ),
    )


_LABEL = re.compile(r"\\\{(\w+)(\\\+)?\\\}")


def _pattern(path: str) -> re.Pattern[str]:
    """The expression that a raw path of the template matches, a group for each label."""

    def group(found: re.Match[str]) -> str:
        return f"(?P<{found[1]}>.+)" if found[2] else f"(?P<{found[1]}>[^/]+)"

    return re.compile(_LABEL.sub(group, re.escape(path)) + "/?", re.DOTALL)
