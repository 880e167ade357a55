"""From a request's body to an answer's, as AWS's serving toolkits do it: decode, predict, encode.

The framework gives the default of each step, the user's handlers replace them. Sources:
huggingface-inference-toolkit 2.6.0, sagemaker-inference 1.10.1, sagemaker-pytorch-inference-toolkit 2.0.
"""

import json
import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from ebbtide.runtime import content
from ebbtide.runtime.articles import Articles
from ebbtide.runtime.engine import Cancelled
from ebbtide.runtime.errors import BadRequest
from ebbtide.runtime.handlers import Context, Handlers
from ebbtide.runtime.pipeline import Pipeline, Summaries, as_texts
from ebbtide.runtime.tasks import TaskPipeline

logger = logging.getLogger(__name__)

CUT_TOKENS_HEADER = "X-Ebbtide-Cut-Tokens"
"""How many tokens of each text were over the model's window and not read; absent when all was read."""


CUSTOM_ATTRIBUTES_HEADER = "X-Amzn-SageMaker-Custom-Attributes"
INVOCATION_HEADER = "X-Ebbtide-Invocation-Id"
"""Of asynchronous invocations; unlike the inference id, which the caller chooses, it is no other's."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What goes back to the agent: an HTTP status, headers and the whole body."""

    status: int
    headers: dict[str, str]
    body: bytes


class Framework(Protocol):
    """What a toolkit does where the user's handlers do not say otherwise."""

    failure_status: int
    """The status for whatever a user's handler raises."""

    def decode(self, body: bytes, content_type: str) -> Any: ...

    def predict(self, data: Any, model: Any, context: Context) -> Any: ...

    def encode(self, prediction: Any, accept: str) -> bytes: ...


class HuggingFace:
    """`{"inputs": ..., "parameters": {...}}` is the call of a pipeline; its list of results is the answer."""

    failure_status = 400

    def decode(self, body: bytes, content_type: str) -> Any:
        return content.decode(body, content_type)

    def predict(self, data: Any, model: Any, context: Context) -> Any:
        if isinstance(data, list):
            raise BadRequest('The body must be an object, {"inputs": ..., "parameters": {...}}, not a list')
        inputs, parameters, document = data, None, None
        if isinstance(data, dict):
            document = data.get(content.DOCUMENT)
            inputs, parameters = data.get("inputs", data), data.get("parameters")
        if parameters is None:
            parameters = _parameters_beside(context)
        if not isinstance(parameters, dict):
            raise BadRequest("parameters must be an object of names and values")
        if not isinstance(model, Pipeline):
            _refuse_bad_lines(data)
        if isinstance(model, TaskPipeline):
            return model.run(inputs, parameters, context.cancelled)
        if not isinstance(model, Pipeline):
            return model(inputs, **parameters)
        if isinstance(inputs, content.Lines):
            return _by_line(inputs, parameters, model, context)
        summaries = _summaries(as_texts(inputs), parameters, model, context)
        if document and parameters.get("return_details"):
            for item in summaries.items:
                for answer in item if isinstance(item, list) else [item]:
                    answer["details"]["document"] = document
        return summaries.items

    def encode(self, prediction: Any, accept: str) -> bytes:
        return content.encode(prediction, accept)


class PyTorch:
    """Arrays in and out: JSON, CSV and .npy bodies become a tensor, which the model is called with."""

    failure_status = 500

    def decode(self, body: bytes, content_type: str) -> Any:
        # Imported here: a model whose handlers decode for themselves needs no torch.
        import numpy
        import torch

        kind = content.media_type(content_type)
        if kind == content.CSV:
            rows = numpy.genfromtxt(content.text_of(body).splitlines(), dtype="float32", delimiter=",")
            return torch.from_numpy(rows)
        decoded = content.decode(body, content_type)
        return torch.FloatTensor(decoded) if kind == content.JSON else torch.from_numpy(decoded)

    def predict(self, data: Any, model: Any, context: Context) -> Any:  # noqa: ARG002 the protocol's
        import torch

        with torch.no_grad():
            return model(data)

    def encode(self, prediction: Any, accept: str) -> bytes:
        if accept == content.CSV:
            import numpy

            rows = numpy.atleast_2d(numpy.asarray(prediction))
            return "\n".join(",".join(map(str, row)) for row in rows.tolist()).encode()
        return content.encode(prediction, accept)


class Service:
    """One loaded model behind one framework's steps. Calls come from several threads at once."""

    def __init__(self, framework: Framework, handlers: Handlers, model: Any, model_dir: Path | None) -> None:
        self._framework = framework
        self._handlers = handlers
        self._model = model
        self._system_properties = {"model_dir": str(model_dir or ""), "gpu_id": None}

    def answer(
        self,
        body: bytes,
        headers: Mapping[str, str],
        cancelled: threading.Event,
        report: Callable[[Mapping[str, int]], None] = lambda _: None,
    ) -> Answer:
        """Serve one request; every failure is answered too, in multi-model-server's shape.

        report: told how far a long article has come (articles.py). Raises Cancelled once
        `cancelled` is set, as soon as the model can: nobody waits for the answer.
        """
        context = Context(self._system_properties, headers, cancelled=cancelled, report=report)
        try:
            payload = self._transform(body, headers.get("Content-Type", ""), headers.get("Accept"), context)
        except Cancelled:
            raise
        except BadRequest as refusal:
            return failure(400, str(refusal))
        except Exception as error:  # a user's handler may raise anything, and the server must go on
            logger.exception("The request failed")
            own = self._handlers == Handlers()
            return failure(500 if own else self._framework.failure_status, str(error) or type(error).__name__)
        return Answer(context.response_status, context.response_headers, payload)

    def _transform(self, body: bytes, content_type: str, wanted: str | None, context: Context) -> bytes:
        accept = content.chosen_accept(wanted)
        context.set_response_content_type(0, accept)
        handlers = self._handlers
        if handlers.transform_fn:
            result = handlers.transform_fn(
                self._model, _handed_over(body, content_type), content_type, accept, context
            )
            return _answer_bytes(result, context)
        if handlers.input_fn:
            data = handlers.input_fn(_handed_over(body, content_type), content_type, context)
        else:
            data = self._framework.decode(body, content_type)
        if handlers.predict_fn:
            _refuse_bad_lines(data)
            prediction = handlers.predict_fn(data, self._model, context)
        else:
            prediction = self._framework.predict(data, self._model, context)
        if handlers.output_fn:
            return _answer_bytes(handlers.output_fn(prediction, accept, context), context)
        return self._framework.encode(prediction, accept)


def _refuse_bad_lines(data: Any) -> None:
    """Raises BadRequest for JSON lines of which some are bad: who predicts would not learn of them."""
    if isinstance(data, dict) and isinstance(data.get("inputs"), content.Lines):
        data["inputs"].refuse_faults()


def _summaries(
    texts: Sequence[str], parameters: dict[str, Any], model: Pipeline, context: Context
) -> Summaries:
    if isinstance(model, Articles):
        invocation = context.get_request_header(0, INVOCATION_HEADER)
        summaries = model.read(
            texts, parameters, context.cancelled, invocation=invocation, report=context.report
        )
    else:
        summaries = model.run(texts, parameters, context.cancelled)
    if any(summaries.cut_tokens):
        context.set_response_header(0, CUT_TOKENS_HEADER, ",".join(map(str, summaries.cut_tokens)))
    return summaries


def _by_line(
    lines: content.Lines, parameters: dict[str, Any], model: Pipeline, context: Context
) -> list[Any]:
    """An answer for each line, in their order; where a line has no text that can be read, why not.

    Raises BadRequest when that is so of all, and for parameters that cannot be honoured.
    """
    texts = []
    for position, (number, text) in enumerate(zip(lines.numbers, lines, strict=True)):
        if position in lines.faults:
            continue
        try:
            if not isinstance(text, str):
                raise BadRequest("inputs must be a string")
            texts += as_texts(text)
        except BadRequest as fault:
            lines.faults[position] = f"Line {number}: {fault}"
    if len(lines.faults) == len(lines):
        lines.refuse_faults()
    try:
        found = iter(_summaries(as_texts(texts), parameters, model, context).items)
    except BadRequest:
        lines.refuse_faults()  # first: what is wrong otherwise counts only the texts
        raise
    if lines.faults:
        logger.warning("%d of %d lines have no text that can be read", len(lines.faults), len(lines))
    return [
        {"error": lines.faults[position]} if position in lines.faults else next(found)
        for position in range(len(lines))
    ]


def _parameters_beside(context: Context) -> Any:
    """Parameters of a body that has no room for any, a PDF or a text: CustomAttributes={"parameters": {...}}.

    Attributes of another kind are the caller's own affair.
    """
    try:
        attributes = json.loads(context.get_request_header(0, CUSTOM_ATTRIBUTES_HEADER) or "null")
    except ValueError:
        return {}
    found = attributes.get("parameters") if isinstance(attributes, dict) else None
    return {} if found is None else found


def failure(status: int, message: str) -> Answer:
    """An error as multi-model-server writes it: JSON over several lines, always of the same type."""
    described = {"code": status, "type": "InternalServerException", "message": message}
    body = json.dumps(described, indent=2, ensure_ascii=False) + "\n"
    return Answer(status, {"Content-Type": content.JSON}, body.encode())


def _handed_over(body: bytes, content_type: str) -> bytes | str:
    """A body as user handlers get it: text where its type says so, else the bytes."""
    return content.text_of(body) if content.media_type(content_type) in content.TEXTUAL else body


def _answer_bytes(result: Any, context: Context) -> bytes:
    """What a user's handler returned: a body, or a body and its content type."""
    if isinstance(result, tuple):
        result, content_type = result
        context.set_response_content_type(0, content_type)
    if isinstance(result, str):
        return result.encode()
    if isinstance(result, bytes | bytearray):
        return bytes(result)
    raise TypeError(f"The handler returned a {type(result).__name__}, which is neither text nor bytes")
