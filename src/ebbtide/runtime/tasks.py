"""The tasks of HF_TASK that make no texts from texts, as the Hugging Face toolkit serves them: transformers'
pipelines, called with a request's `inputs` and `parameters`, and their results as the answer.

Different on purpose: a text over the model's window is refused where the toolkit would cut it without a
word, a parameter that the task does not take is refused by name, and a request opens no file of this
machine.
"""

import base64
import binascii
import io
import json
import logging
import math
import threading
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ebbtide.runtime import content
from ebbtide.runtime.batching import CANCELLATION_POLL_S
from ebbtide.runtime.engine import Cancelled
from ebbtide.runtime.engines.reference import call_between_layers, torch_and_transformers
from ebbtide.runtime.errors import BadRequest, LoadFailure, one_line

logger = logging.getLogger(__name__)

ALIASES = {"sentiment-analysis": "text-classification", "ner": "token-classification"}

_TOKENIZER = ("truncation", "padding", "max_length")
_GENERATION = (
    *(
        "max_length",
        "max_new_tokens",
        "min_length",
        "min_new_tokens",
        "max_time",
        "early_stopping",
        "do_sample",
    ),
    *("num_beams", "num_return_sequences", "temperature", "top_k", "top_p", "min_p", "typical_p"),
    *("repetition_penalty", "length_penalty", "no_repeat_ngram_size", "bad_words_ids", "renormalize_logits"),
    *("suppress_tokens", "begin_suppress_tokens", "forced_bos_token_id", "forced_eos_token_id"),
    *("exponential_decay_length_penalty", "bos_token_id", "eos_token_id", "pad_token_id", "use_cache"),
)
PARAMETERS = {
    "audio-classification": ("top_k", "function_to_apply"),
    "automatic-speech-recognition": (
        *("chunk_length_s", "stride_length_s", "return_timestamps", "return_language", "ignore_warning"),
        *("generate_kwargs", "language", "task"),
        *_GENERATION,
    ),
    "depth-estimation": (),
    "feature-extraction": ("truncation", "tokenize_kwargs", "return_tensors"),
    "fill-mask": ("top_k", "targets", "truncation"),
    "image-classification": ("top_k", "function_to_apply"),
    "image-feature-extraction": ("pool", "return_tensors"),
    "image-segmentation": ("subtask", "threshold", "mask_threshold", "overlap_mask_area_threshold"),
    "object-detection": ("threshold",),
    "question-answering": (
        *("top_k", "doc_stride", "max_answer_len", "max_seq_len"),
        *("handle_impossible_answer", "align_to_words"),
    ),
    "table-question-answering": ("sequential", "padding", "truncation"),
    "text-classification": ("top_k", "function_to_apply", *_TOKENIZER),
    "text-generation": (
        *("return_full_text", "return_tensors", "return_text", "clean_up_tokenization_spaces", "prefix"),
        *(
            "handle_long_generation",
            "stop_sequence",
            "truncation",
            "add_special_tokens",
            "skip_special_tokens",
        ),
        "continue_final_message",
        *_GENERATION,
    ),
    "token-classification": (
        "aggregation_strategy",
        "ignore_labels",
        "stride",
        "is_split_into_words",
        "truncation",
    ),
    "zero-shot-audio-classification": ("candidate_labels", "hypothesis_template"),
    "zero-shot-classification": ("candidate_labels", "hypothesis_template", "multi_label", "truncation"),
    "zero-shot-image-classification": ("candidate_labels", "hypothesis_template"),
    "zero-shot-object-detection": ("candidate_labels", "threshold", "top_k"),
}
"""The tasks served -> what a request's parameters may be, besides batch_size."""

_IMAGE_TASKS = frozenset(
    {
        "depth-estimation",
        "image-classification",
        "image-feature-extraction",
        "image-segmentation",
        "object-detection",
        "zero-shot-image-classification",
        "zero-shot-object-detection",
    }
)
_LABELLED_TASKS = frozenset(task for task, taken in PARAMETERS.items() if "candidate_labels" in taken)
_AUDIO_TASKS = frozenset(
    {"audio-classification", "automatic-speech-recognition", "zero-shot-audio-classification"}
)

GONE = ("conversational", "image-to-image", "image-to-text", "visual-question-answering", "vqa")
"""What older toolkits served and transformers 5 has no pipeline for any more."""

ARCHITECTURE_TASKS = {
    "TapasForQuestionAnswering": "table-question-answering",
    "ForQuestionAnswering": "question-answering",
    "ForTokenClassification": "token-classification",
    "ForSequenceClassification": "text-classification",
    "ForMultipleChoice": "multiple-choice",
    "ForMaskedLM": "fill-mask",
    "ForCausalLM": "text-generation",
    "GPT2LMHeadModel": "text-generation",
    "ForConditionalGeneration": "text2text-generation",
    "MTModel": "text2text-generation",
    "EncoderDecoderModel": "text2text-generation",
    "T5WithLMHeadModel": "text2text-generation",
}
"""How an architecture's name ends -> its task. Source: huggingface-inference-toolkit, transformers_utils."""

MAX_COUNT = 64
"""Bounds num_beams, num_return_sequences and batch_size: a slip of the keyboard is not to end an instance."""

FETCH_TIMEOUT_S = 10.0
MAX_FETCHED_BYTES = 1 << 28


def inferred(folder: Path) -> str:
    """The task of the model in the folder, by its architecture. Raises LoadFailure when that says nothing."""
    try:
        config = json.loads((folder / "config.json").read_text())
        architecture = str(config["architectures"][0])
    except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
        raise LoadFailure("HF_TASK is not set, and no config.json names the model's architecture") from error
    for ending, task in ARCHITECTURE_TASKS.items():
        if architecture.endswith(ending):
            return task
    raise LoadFailure(f"HF_TASK is not set, and the architecture {architecture} does not tell the task")


def check(task: str) -> str:
    """The task's one name. Raises LoadFailure when it is not served, or what it needs is not installed."""
    name = ALIASES.get(task, task)
    if name in GONE:
        raise LoadFailure(f"HF_TASK {task} is not served: transformers 5 has no such pipeline any more")
    if name not in PARAMETERS:
        served = ", ".join(sorted(PARAMETERS))
        raise LoadFailure(f"HF_TASK {task} is not served: there are summarization, translation, {served}")
    torch_and_transformers()
    return name


def load(task: str, folder: Path, *, threads: int, trust_remote_code: bool) -> "TaskPipeline":
    """The model in the folder behind the task's pipeline. Raises LoadFailure naming the cause."""
    name = check(task)
    torch, transformers = torch_and_transformers()
    torch.set_num_threads(threads)
    device = 0 if torch.cuda.is_available() else -1
    options: dict[str, Any] = {"device": device, "trust_remote_code": trust_remote_code}
    try:
        if name == "question-answering":
            from ebbtide.runtime.question_answering import QuestionAnswering

            pipeline: Any = QuestionAnswering(folder, **options)
        else:
            pipeline = transformers.pipeline(name, model=str(folder), **options)
    except LoadFailure:
        raise
    except Exception as error:  # a fault in a user's files may surface anywhere in a large library
        raise LoadFailure(f"transformers cannot load the model for {task}: {one_line(error)}") from error
    return TaskPipeline(name, pipeline, threads=threads)


class TaskPipeline:
    """A pipeline of transformers, asked by several threads: one request at a time has all of its cores."""

    def __init__(self, task: str, pipeline: Any, *, threads: int) -> None:
        self._task = task
        self._pipeline = pipeline
        self._threads = threads
        self._turn = threading.Lock()
        self._cancelled = threading.Event()
        call_between_layers(pipeline.model, self._stop_if_cancelled)

    def __call__(self, inputs: Any, **parameters: Any) -> Any:
        return self.run(inputs, parameters, threading.Event())

    def run(self, inputs: Any, parameters: Mapping[str, Any], cancelled: threading.Event) -> Any:
        """The pipeline's own answer. Raises BadRequest for inputs or parameters that it cannot use, and
        Cancelled soon after `cancelled` is set."""
        checked = self._checked(parameters)
        while not self._turn.acquire(timeout=CANCELLATION_POLL_S):
            if cancelled.is_set():
                raise Cancelled
        try:
            self._cancelled = cancelled
            prepared = self._prepared(inputs, checked)
            return self._pipeline(prepared, **checked)
        except (BadRequest, Cancelled, ImportError, MemoryError):
            raise
        except Exception as error:
            if "memory" in str(error):  # torch's RuntimeErrors for want of it
                raise
            # The pipelines check little themselves: what a request makes them trip over is its own fault.
            logger.warning("The pipeline refused a request", exc_info=True)
            raise BadRequest(f"{self._task}: {one_line(error)}") from error
        finally:
            self._turn.release()

    def describe(self) -> dict[str, Any]:
        """What it computes with, as engines say it."""
        model = self._pipeline.model
        return {
            "engine": "transformers",
            "compute_type": str(model.dtype).removeprefix("torch."),
            "device": model.device.type,
            "threads": self._threads,
        }

    def _checked(self, parameters: Mapping[str, Any]) -> dict[str, Any]:
        taken = ("batch_size", *PARAMETERS[self._task])
        nested = parameters.get("generate_kwargs") or {}
        if not isinstance(nested, dict):
            raise BadRequest("generate_kwargs must be an object of names and values")
        for name, value in (*parameters.items(), *nested.items()):
            if name not in taken:
                raise BadRequest(
                    f"{self._task} takes no parameter {name}; there are {', '.join(sorted(taken))}"
                )
            if name in ("batch_size", "num_beams", "num_return_sequences") and (
                type(value) is not int or not 1 <= value <= MAX_COUNT
            ):
                raise BadRequest(f"{name} must be an integer from 1 to {MAX_COUNT}, not {value!r}")
        return dict(parameters)

    def _prepared(self, inputs: Any, parameters: dict[str, Any]) -> Any:
        """The inputs as the pipeline takes them; parameters that are ours are taken out."""
        if inputs is None or (isinstance(inputs, str | list | dict) and not inputs):
            raise BadRequest("inputs is missing or empty")
        labelled = inputs if isinstance(inputs, dict) else parameters
        if self._task in _LABELLED_TASKS and not labelled.get("candidate_labels"):
            raise BadRequest(f"{self._task} needs the parameter candidate_labels: a list of texts")
        if self._task in _IMAGE_TASKS:
            return _images(inputs)
        if self._task in _AUDIO_TASKS:
            return _recordings(inputs, self._pipeline.feature_extractor.sampling_rate)
        if self._task in ("table-question-answering", "question-answering"):
            return inputs
        if not _is_textual(inputs):
            raise BadRequest(f"{self._task}: inputs must be a string or a list of strings")
        if self._task != "text-generation":
            self._check_lengths(inputs, parameters)
        return inputs

    def _check_lengths(self, inputs: Any, parameters: dict[str, Any]) -> None:
        """Refuse a text that the model cannot read whole, unless it is to be cut or read in strides."""
        truncation = parameters.get("truncation")
        if self._task in ("token-classification", "zero-shot-classification"):
            # Their pipelines cut, and take no such parameter.
            parameters.pop("truncation", None)
        if self._task == "fill-mask" and truncation is not None:
            parameters["tokenizer_kwargs"] = {"truncation": parameters.pop("truncation")}
        if truncation or parameters.get("stride") or parameters.get("is_split_into_words"):
            return
        tokenizer = self._pipeline.tokenizer
        positions = getattr(self._pipeline.model.config, "max_position_embeddings", None) or math.inf
        window = min(tokenizer.model_max_length, positions)
        for place, one in enumerate(inputs if isinstance(inputs, list) else [inputs]):
            count = len(
                tokenizer(**one)["input_ids"] if isinstance(one, dict) else tokenizer(one)["input_ids"]
            )
            if count > window:
                raise BadRequest(
                    f"inputs[{place}] has {count} tokens and the model reads {window}: send less, or "
                    '{"parameters": {"truncation": true}} to have only the beginning read'
                )

    def _stop_if_cancelled(self) -> None:
        if self._cancelled.is_set():
            raise Cancelled


def _is_textual(inputs: Any) -> bool:
    """Texts, pairs of them ({"text", "text_pair"}), words, or messages of a chat: the pipeline tells them
    apart."""
    return isinstance(inputs, str | dict) or (
        isinstance(inputs, list) and all(isinstance(one, str | dict | list) for one in inputs)
    )


def _images(inputs: Any) -> Any:
    if isinstance(inputs, list):
        return [_images(one) for one in inputs]
    if isinstance(inputs, dict) and "image" in inputs:
        return {**inputs, "image": _images(inputs["image"])}
    if isinstance(inputs, str):
        return content.decode(_bytes_of(inputs, "an image"), "image/x-image")["inputs"]
    if content.is_image(inputs):
        return inputs
    raise BadRequest("inputs must be an image: a body of a type image/*, or base64 or the URL of one in JSON")


def _recordings(inputs: Any, rate: int) -> Any:
    """One-dimensional float32 arrays at `rate` samples a second: what the pipelines ask no ffmpeg for."""
    import numpy

    if isinstance(inputs, list):
        return [_recordings(one, rate) for one in inputs]
    if isinstance(inputs, str):
        inputs = _bytes_of(inputs, "a recording")
    if isinstance(inputs, bytes):
        return _decoded(inputs, rate)
    if isinstance(inputs, dict) and "sampling_rate" in inputs and ("raw" in inputs or "array" in inputs):
        samples = numpy.asarray(inputs.get("raw", inputs.get("array")), dtype=numpy.float32)
        return _resampled(samples, float(inputs["sampling_rate"]), rate)
    if isinstance(inputs, numpy.ndarray):
        return inputs.astype(numpy.float32)
    raise BadRequest(
        "inputs must be a recording: a body of a type audio/*, or in JSON base64 or the URL of one, "
        'or {"raw": [...], "sampling_rate": n}'
    )


def _decoded(recording: bytes, rate: int) -> Any:
    import soundfile

    try:
        samples, own_rate = soundfile.read(io.BytesIO(recording), dtype="float32", always_2d=True)
    except soundfile.SoundFileError as error:
        raise BadRequest(f"The recording cannot be read: {one_line(error)}") from error
    return _resampled(samples.mean(axis=1), own_rate, rate)


def _resampled(samples: Any, own_rate: float, rate: int) -> Any:
    import soxr

    return samples if own_rate == rate else soxr.resample(samples, own_rate, rate)


def _bytes_of(source: str, what: str) -> bytes:
    """What a URL or base64, also as a data: URL, stands for; never a file of this machine."""
    if source.startswith(("http://", "https://")):
        try:
            with urllib.request.urlopen(source, timeout=FETCH_TIMEOUT_S) as answer:  # noqa: S310 http alone
                fetched: bytes = answer.read(MAX_FETCHED_BYTES + 1)
        except (OSError, ValueError) as error:
            raise BadRequest(f"{source} cannot be fetched: {one_line(error)}") from error
        if len(fetched) > MAX_FETCHED_BYTES:
            raise BadRequest(f"{source} is over {MAX_FETCHED_BYTES} bytes")
        return fetched
    encoded = source.partition(",")[2] if source.startswith("data:") else source
    try:
        return base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError) as error:
        raise BadRequest(f"inputs must be {what}: its base64 or its URL, not other text") from error
