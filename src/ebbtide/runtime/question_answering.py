"""Extractive question answering as the pipeline of that name did it in transformers 4; 5 has none any more.

A context too long for the model is read in overlapping spans. Of every token of a span the model says how
likely an answer starts there and how likely one ends there; an answer's score is the product of the two,
each a softmax over the tokens of the context. Source of the behaviour: transformers 4.57,
pipelines/question_answering.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy

from ebbtide.runtime.errors import BadRequest, LoadFailure

Array = numpy.ndarray[Any, numpy.dtype[numpy.float32]]

MAX_SPAN_TOKENS = 384
OVERLAP_TOKENS = 128


class QuestionAnswering:
    """Called as transformers' pipelines are: `answering({"question": ..., "context": ...}, **parameters)`."""

    def __init__(self, folder: Path, *, device: int, trust_remote_code: bool) -> None:
        """device: a GPU's number, or -1 for the processor. Raises what transformers raises for its files."""
        from transformers import AutoModelForQuestionAnswering, AutoTokenizer

        self._device = "cpu" if device < 0 else f"cuda:{device}"
        load: Any = AutoModelForQuestionAnswering.from_pretrained
        self.model = load(folder, trust_remote_code=trust_remote_code).eval().to(self._device)
        self.tokenizer: Any = AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code)
        if not self.tokenizer.is_fast:
            raise LoadFailure("question-answering needs a tokenizer that tells where its tokens lie")
        # Models that are padded at their left (XLNet) read the question last.
        self._question_first = self.tokenizer.padding_side == "right"

    def __call__(self, inputs: Any, *, batch_size: int = 1, **parameters: Any) -> Any:
        """For each question an answer {"score", "start", "end", "answer"}, start and end counting
        characters of the context; with top_k over 1 a list of them, best first. One question's answer
        stands by itself.

        inputs: {"question", "context"}, each a text or a list of texts, or a list of such objects.
        batch_size: spans read together. Raises BadRequest for other inputs.
        """
        answers = [
            self._answer(question, context, batch_size=batch_size, **parameters)
            for question, context in _pairs(inputs)
        ]
        return answers[0] if len(answers) == 1 else answers

    def _answer(
        self,
        question: str,
        context: str,
        *,
        batch_size: int,
        top_k: int = 1,
        doc_stride: int | None = None,
        max_answer_len: int = 15,
        max_seq_len: int | None = None,
        handle_impossible_answer: bool = False,
        align_to_words: bool = True,
    ) -> Any:
        if top_k < 1 or max_answer_len < 1:
            raise BadRequest("top_k and max_answer_len must be at least 1")
        longest = max_seq_len or min(self.tokenizer.model_max_length, MAX_SPAN_TOKENS)
        overlap = min(longest // 2, OVERLAP_TOKENS) if doc_stride is None else doc_stride
        texts = (question, context) if self._question_first else (context, question)
        spans = self.tokenizer(
            *texts,
            truncation="only_second" if self._question_first else "only_first",
            max_length=longest,
            stride=overlap,
            return_overflowing_tokens=True,
            return_special_tokens_mask=False,
        )
        del spans["overflow_to_sample_mapping"]
        # Aligning to words makes one answer of several; the best candidates alone would then be too few.
        wanted = top_k * 2 + 10 if align_to_words else top_k
        found: dict[str, dict[str, Any]] = {}
        impossible = 1.0
        logits = self._logits(spans, batch_size)
        for encoding, (start_logits, end_logits) in zip(spans.encodings, logits, strict=True):
            is_context = self._is_context(encoding)
            readable = is_context | (numpy.array(encoding.ids) == self.tokenizer.cls_token_id)
            starts, ends = _softmax(start_logits, readable), _softmax(end_logits, readable)
            # The first token stands for no answer at all.
            impossible = min(impossible, float(starts[0] * ends[0]))
            starts[0] = ends[0] = 0
            for first, last, score in _best(starts, ends, max_answer_len, wanted):
                if not (readable[first] and readable[last]):
                    continue
                begin, end = self._characters(encoding, first, last, align_to_words=align_to_words)
                text = context[begin:end]
                answer = found.setdefault(
                    text.lower(), {"score": 0.0, "start": begin, "end": end, "answer": text}
                )
                answer["score"] += score
        answers = list(found.values())
        if handle_impossible_answer:
            answers.append({"score": impossible, "start": 0, "end": 0, "answer": ""})
        answers = sorted(answers, key=lambda answer: answer["score"], reverse=True)[:top_k]
        return answers[0] if len(answers) == 1 else answers

    def _logits(self, spans: Any, batch_size: int) -> Iterator[tuple[Array, Array]]:
        """The logits of a start and of an end at each token, span by span."""
        import torch

        lengths = [len(ids) for ids in spans["input_ids"]]
        for first in range(0, len(lengths), batch_size):
            some = {name: values[first : first + batch_size] for name, values in spans.items()}
            batch = self.tokenizer.pad(some, return_tensors="pt").to(self._device)
            with torch.inference_mode():
                output = self.model(**batch)
            both = zip(output.start_logits.float().cpu(), output.end_logits.float().cpu(), strict=True)
            for length, (starts, ends) in zip(lengths[first:], both, strict=False):
                place = slice(0, length) if self._question_first else slice(-length, None)
                yield starts[place].numpy(), ends[place].numpy()

    def _is_context(self, encoding: Any) -> Any:
        wanted = 1 if self._question_first else 0
        return numpy.array([sequence == wanted for sequence in encoding.sequence_ids])

    def _characters(self, encoding: Any, first: int, last: int, *, align_to_words: bool) -> tuple[int, int]:
        """Where the answer from token `first` to token `last` begins and ends in the context."""
        if align_to_words:
            sequence = 1 if self._question_first else 0
            words = encoding.token_to_word(first), encoding.token_to_word(last)
            if None not in words:
                begin, end = (encoding.word_to_chars(word, sequence) for word in words)
                return begin[0], end[1]
        return encoding.offsets[first][0], encoding.offsets[last][1]


def _pairs(inputs: Any) -> list[tuple[str, str]]:
    if isinstance(inputs, list):
        return [pair for one in inputs for pair in _pairs(one)]
    if not isinstance(inputs, dict) or "question" not in inputs or "context" not in inputs:
        raise BadRequest('inputs must be {"question": ..., "context": ...} or a list of such')
    questions, contexts = (
        named if isinstance(named, list) else [named] for named in (inputs["question"], inputs["context"])
    )
    if len(contexts) == 1:
        contexts *= len(questions)
    if not questions or len(questions) != len(contexts):
        raise BadRequest("There must be one context for all questions or one for each")
    for text in (*questions, *contexts):
        if not isinstance(text, str) or not text.strip():
            raise BadRequest("question and context must be texts that are not empty")
    return list(zip(questions, contexts, strict=True))


def _softmax(logits: Array, readable: Any) -> Array:
    likely = numpy.where(readable, numpy.exp(logits - logits[readable].max()), 0)
    softmax: Array = likely / likely.sum()
    return softmax


def _best(starts: Array, ends: Array, max_tokens: int, count: int) -> Iterator[tuple[int, int, float]]:
    """The likeliest (first token, last token, score) of at most max_tokens, best first."""
    scores = numpy.tril(numpy.triu(numpy.outer(starts, ends)), max_tokens - 1)
    order = numpy.argsort(-scores, axis=None, kind="stable")[:count]
    for first, last in zip(*numpy.unravel_index(order, scores.shape), strict=True):
        yield int(first), int(last), float(scores[first, last])
