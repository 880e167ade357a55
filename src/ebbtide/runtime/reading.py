"""How a request wants its articles read, beside how it wants summaries generated:

- `long_document`: what happens to a text over the model's window: `merge` summarises its parts and merges
  their summaries, `truncate` reads the beginning alone and says so, as the toolkit does, `error` refuses it.
  Merging is the default of summarization; other tasks refuse, since their parts make no whole.
- `return_details`: each answer has `details`: the parts with their spans in the source, tokens, time; of the
  extractive summariser the spans of the sentences that it chose, words, time.
- `return_grounding`: each answer has `grounding`: see grounding.py.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from ebbtide.runtime.errors import BadRequest

LONG_DOCUMENT = ("merge", "truncate", "error")


@dataclass(frozen=True, slots=True)
class Reading:
    """How to read articles. Raises BadRequest, from `of`, for a member of another kind."""

    long_document: Literal["merge", "truncate", "error"]
    details: bool
    grounding: bool

    @classmethod
    def of(cls, parameters: Mapping[str, Any], *, merges: bool) -> "tuple[Reading, dict[str, Any]]":
        """What the parameters say, and the others. merges: whether that is the default."""
        others = dict(parameters)
        chosen = others.pop("long_document", None)
        if chosen is not None and chosen not in LONG_DOCUMENT:
            raise BadRequest(f"long_document must be merge, truncate or error, not {chosen!r}")
        flags = {name: others.pop(name, None) for name in ("return_details", "return_grounding")}
        for name, value in flags.items():
            if value is not None and not isinstance(value, bool):
                raise BadRequest(f"{name} must be true or false, not {value!r}")
        if chosen is None:
            asked_to_cut = others.get("truncation") not in (None, False, "do_not_truncate")
            chosen = "truncate" if asked_to_cut else "merge" if merges else "error"
        others["truncation"] = chosen == "truncate"
        return cls(chosen, bool(flags["return_details"]), bool(flags["return_grounding"])), others
