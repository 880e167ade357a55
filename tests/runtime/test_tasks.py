"""The tasks of HF_TASK beside texts from texts: each on a small checkpoint, through a model server's socket,
beside the answers of transformers' own pipelines."""

import base64
import io
import json
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy
import pytest
import soundfile
from PIL import Image
from tests import task_checkpoints
from tests.model_servers import ModelServerProcess, Start
from tests.task_checkpoints import SAMPLES_PER_S

from ebbtide.runtime import content, tasks
from ebbtide.runtime.deployment import HUGGING_FACE, Deployment
from ebbtide.runtime.engine import Cancelled
from ebbtide.runtime.errors import BadRequest, LoadFailure
from ebbtide.runtime.loading import load
from ebbtide.runtime.status import StatusFile

Checkpoint = Callable[[str], Path]
QUESTION = {"question": "who runs ?", "context": "anna runs to the harbour and peter to the ship ."}
TABLE = {"query": "who runs ?", "table": {"who": ["anna", "peter"], "runs": ["1", "2"]}}
LABELS = {"candidate_labels": ["sea", "moon", "ship"]}


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """A checkpoint for a task, made when it is first asked for."""
    made: dict[str, Path] = {}

    def folder(task: str) -> Path:
        if task not in made:
            made[task] = task_checkpoints.make(task, tmp_path_factory.mktemp("tasks") / task)
        return made[task]

    return folder


@pytest.fixture
def served(start: Start, checkpoint: Checkpoint) -> Callable[..., ModelServerProcess]:
    def serve(task: str, environment: Mapping[str, str] | None = None) -> ModelServerProcess:
        return start({"HF_TASK": task, **(environment or {})}, model_dir=checkpoint(task)).ready()

    return serve


@pytest.fixture(scope="session")
def loaded(checkpoint: Checkpoint) -> Callable[[str], tasks.TaskPipeline]:
    """A task's pipeline as the model server has it, in this process."""

    def load_one(task: str) -> tasks.TaskPipeline:
        return tasks.load(task, checkpoint(task), threads=1, trust_remote_code=False)

    return load_one


@pytest.fixture(scope="session")
def pipeline(checkpoint: Checkpoint) -> Callable[[str], Any]:
    """transformers' own pipeline for a task."""

    def load_one(task: str) -> Any:
        import transformers

        return transformers.pipeline(task, model=str(checkpoint(task)), device=-1)

    return load_one


def picture() -> Image.Image:
    return Image.fromarray(numpy.random.default_rng(0).integers(0, 255, (40, 48, 3), dtype="uint8"))


def png() -> bytes:
    file = io.BytesIO()
    picture().save(file, format="PNG")
    return file.getvalue()


def sound() -> Any:
    """A second of two tones."""
    seconds = numpy.arange(SAMPLES_PER_S) / SAMPLES_PER_S
    return (0.4 * numpy.sin(2760 * seconds) + 0.3 * numpy.sin(9000 * seconds)).astype("float32")


def recording(file_format: str = "WAV", *, rate: int = SAMPLES_PER_S, channels: int = 1) -> bytes:
    file = io.BytesIO()
    samples = numpy.stack([sound()] * channels, axis=1)
    # A recording of whole numbers would not be sample for sample the same.
    exact = {"subtype": "FLOAT"} if file_format == "WAV" else {}
    soundfile.write(file, samples, rate, format=file_format, **exact)
    return file.getvalue()


def as_json(answer: Any) -> Any:
    return json.loads(content.encode(answer, content.JSON))


@pytest.mark.parametrize(
    ("task", "inputs", "parameters"),
    [
        ("text-classification", ["the tide", "london"], {"top_k": 2}),
        ("text-classification", {"text": "the tide", "text_pair": "rises"}, {}),
        ("token-classification", "anna runs to london", {"aggregation_strategy": "simple"}),
        ("zero-shot-classification", "anna runs", {**LABELS, "multi_label": True}),
        ("table-question-answering", TABLE, {}),
        ("fill-mask", "the [MASK] rises", {"top_k": 3}),
        ("feature-extraction", "the tide rises", {}),
        ("text-generation", "the tide", {"max_new_tokens": 6, "do_sample": False}),
    ],
)
def test_a_task_on_text_answers_what_transformers_pipeline_answers(
    loaded: Callable[[str], Any],
    pipeline: Callable[[str], Any],
    task: str,
    inputs: Any,
    parameters: dict[str, Any],
):
    answer = loaded(task)(inputs, **parameters)

    assert as_json(answer) == as_json(pipeline(task)(inputs, **parameters))


@pytest.mark.parametrize(
    ("task", "parameters"),
    [
        ("image-classification", {"top_k": 2}),
        ("image-segmentation", {}),
        ("image-feature-extraction", {}),
        ("object-detection", {"threshold": 0.0}),
        ("depth-estimation", {}),
        ("zero-shot-image-classification", LABELS),
    ],
)
def test_a_task_on_an_image_answers_what_transformers_pipeline_answers(
    loaded: Callable[[str], Any], pipeline: Callable[[str], Any], task: str, parameters: dict[str, Any]
):
    encoded = base64.b64encode(png()).decode()

    answer = loaded(task)([encoded, f"data:image/png;base64,{encoded}"], **parameters)

    assert as_json(answer) == as_json([pipeline(task)(picture(), **parameters)] * 2)


@pytest.mark.parametrize("task", ["audio-classification", "automatic-speech-recognition"])
def test_a_recording_is_heard_alike_in_any_format(
    loaded: Callable[[str], Any], pipeline: Callable[[str], Any], task: str
):
    model = loaded(task)

    heard = [
        model({"raw": sound().tolist(), "sampling_rate": SAMPLES_PER_S}),
        model(recording()),
        model(recording(channels=2)),
        model(base64.b64encode(recording()).decode()),
    ]

    assert heard == [pipeline(task)(sound())] * 4
    assert model(recording("FLAC", rate=2 * SAMPLES_PER_S))


def test_ner_and_sentiment_analysis_are_other_names(loaded: Callable[[str], Any], checkpoint: Checkpoint):
    ner = tasks.load("ner", checkpoint("token-classification"), threads=1, trust_remote_code=False)

    assert ner("anna") == loaded("token-classification")("anna")
    assert tasks.check("sentiment-analysis") == "text-classification"


def test_text_classification_is_served_with_the_toolkits_shapes(served: Callable[..., ModelServerProcess]):
    server = served("text-classification")

    one = server.invoke({"inputs": "the tide"})
    several = server.invoke({"inputs": ["the tide", "london"], "parameters": {"top_k": None}})
    rows = server.invoke("inputs\nthe tide\n", "text/csv", Accept="text/csv")

    assert (one.status, set(one.json[0])) == (200, {"label", "score"})
    assert server.status()["engine"]["engine"] == "transformers"
    assert [len(labels) for labels in several.json] == [3, 3]
    assert rows.body.decode().splitlines()[0] == "label,score"
    assert server.invoke({"inputs": 5}).status == 400
    unknown = server.invoke({"inputs": "the tide", "parameters": {"trust_remote_code": True}})
    assert (unknown.status, "takes no parameter trust_remote_code" in unknown.json["message"]) == (400, True)


def test_an_image_is_sent_as_the_body_itself(served: Callable[..., ModelServerProcess]):
    server = served("image-segmentation")

    reply = server.invoke(png(), "image/x-image")

    masks = [Image.open(io.BytesIO(base64.b64decode(segment["mask"]))) for segment in reply.json]
    assert {mask.size for mask in masks} == {(48, 40)}
    assert server.invoke(b"no image", "image/png").status == 400
    assert server.invoke({"inputs": "/etc/hostname"}).status == 400


def test_a_recording_is_sent_as_the_body_itself(served: Callable[..., ModelServerProcess]):
    server = served("automatic-speech-recognition")

    reply = server.invoke(recording("FLAC"), "audio/x-flac")

    assert (reply.status, set(reply.json)) == (200, {"text"})
    assert server.invoke(b"no recording", "audio/wave").status == 400
    assert server.invoke({"inputs": "/etc/hostname"}).status == 400


def test_question_answering_is_served_though_transformers_has_it_no_more(
    served: Callable[..., ModelServerProcess],
):
    server = served("question-answering")

    one = server.invoke({"inputs": QUESTION})
    bare = server.invoke(QUESTION)
    several = server.invoke({"inputs": [QUESTION, QUESTION], "parameters": {"top_k": 2}})
    rows = server.invoke(f"question,context\n{QUESTION['question']},{QUESTION['context']}\n", "text/csv")

    assert set(one.json) == {"score", "start", "end", "answer"}
    assert QUESTION["context"][one.json["start"] : one.json["end"]] == one.json["answer"]
    assert bare.json == rows.json == one.json
    assert [len(answers) for answers in several.json] == [2, 2]
    assert several.json[0][0] == one.json
    assert server.invoke({"inputs": {"question": "who ?"}}).status == 400


@pytest.mark.parametrize(
    ("task", "inputs", "parameters", "fact"),
    [
        pytest.param("text-classification", [], {}, "missing or empty", id="nothing"),
        pytest.param("text-classification", 5, {}, "a string or a list", id="a number for a text"),
        pytest.param(
            "text-classification", "tide " * 90, {}, "92 tokens and the model reads 64", id="too long"
        ),
        pytest.param(
            "token-classification", "tide " * 90, {}, "92 tokens", id="too long, where toolkits cut"
        ),
        pytest.param("zero-shot-classification", "tide", {}, "needs the parameter", id="no labels"),
        pytest.param("fill-mask", "the tide", {}, "mask", id="no mask"),
        pytest.param("table-question-answering", {"query": "x"}, {}, "table", id="no table"),
        pytest.param(
            "text-generation", "the tide", {"num_beams": 10**9}, "from 1 to 64", id="beams without end"
        ),
        pytest.param(
            "text-generation", "the tide", {"custom_generate": "a/b"}, "takes no", id="code of others"
        ),
        pytest.param(
            "automatic-speech-recognition",
            b"",
            {"generate_kwargs": {"custom_generate": "a/b"}},
            "takes no",
            id="code of others, one further in",
        ),
        pytest.param(
            "image-classification", "http://", {}, "cannot be fetched", id="a URL that leads nowhere"
        ),
        pytest.param("question-answering", QUESTION, {"top_k": 0}, "at least 1", id="no answer wanted"),
    ],
)
def test_what_a_task_cannot_use_is_refused_with_the_fact(
    loaded: Callable[[str], Any], task: str, inputs: Any, parameters: dict[str, Any], fact: str
):
    with pytest.raises(BadRequest, match=fact):
        loaded(task)(inputs, **parameters)


def test_a_text_over_the_window_is_read_in_part_where_that_is_asked_for(loaded: Callable[[str], Any]):
    long = "anna runs " * 50

    for task in ("text-classification", "token-classification", "feature-extraction"):
        assert loaded(task)(long, truncation=True)
    assert loaded("token-classification")(long, stride=8, aggregation_strategy="simple")[-1]["end"] > 450


def test_a_long_context_is_searched_to_its_end(loaded: Callable[[str], Any]):
    ask = loaded("question-answering")
    context = "the tide rises . " * 60 + "anna runs to the harbour ."

    answers = ask({"question": "who runs ?", "context": context}, top_k=60, doc_stride=8)

    assert max(answer["end"] for answer in answers) > len(context) - 10


def test_a_cancelled_request_ends_between_two_layers(loaded: Callable[[str], tasks.TaskPipeline]):
    cancelled = threading.Event()
    cancelled.set()

    with pytest.raises(Cancelled):
        loaded("text-generation").run("the tide", {"max_new_tokens": 50}, cancelled)


@pytest.mark.parametrize(
    ("architecture", "task"),
    [
        ("BertForSequenceClassification", "text-classification"),
        ("RobertaForTokenClassification", "token-classification"),
        ("DistilBertForQuestionAnswering", "question-answering"),
        ("TapasForQuestionAnswering", "table-question-answering"),
        ("BertForMaskedLM", "fill-mask"),
        ("GPT2LMHeadModel", "text-generation"),
        ("LlamaForCausalLM", "text-generation"),
        ("PegasusForConditionalGeneration", "text2text-generation"),
        ("MarianMTModel", "text2text-generation"),
    ],
)
def test_without_hf_task_the_architecture_tells_the_task(tmp_path: Path, architecture: str, task: str):
    (tmp_path / "config.json").write_text(json.dumps({"architectures": [architecture]}))

    assert tasks.inferred(tmp_path) == task


@pytest.mark.parametrize(
    ("environment", "fact"),
    [
        pytest.param(
            {"HF_TASK": "conversational"}, "transformers 5 has no such", id="gone with transformers 5"
        ),
        pytest.param({"HF_TASK": "dreaming"}, "HF_TASK dreaming is not served", id="never there"),
        pytest.param({}, "BertModel does not tell the task", id="an architecture without a head"),
        pytest.param(
            {"HF_TASK": "ner", "HF_TRUST_REMOTE_CODE": "perhaps"}, "true or false", id="trust unsaid"
        ),
        pytest.param(
            {"HF_TASK": "image-classification"}, "cannot load the model", id="another kind of model"
        ),
    ],
)
def test_a_task_that_cannot_be_served_fails_with_the_cause(
    checkpoint: Checkpoint, tmp_path: Path, environment: dict[str, str], fact: str
):
    folder = checkpoint("feature-extraction")

    with pytest.raises(LoadFailure, match=fact):
        load(Deployment(HUGGING_FACE, folder, tmp_path, environment), StatusFile(tmp_path / "status"))
