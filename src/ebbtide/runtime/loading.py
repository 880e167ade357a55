"""From a deployment to the model that answers its requests."""

from pathlib import Path
from typing import Any

from ebbtide.runtime import extract, handlers, preparation, tasks
from ebbtide.runtime.contract import Echo
from ebbtide.runtime.deployment import HUGGING_FACE, PYTORCH, Deployment
from ebbtide.runtime.errors import LoadFailure
from ebbtide.runtime.handlers import Context, Handlers
from ebbtide.runtime.pipeline import answer_member, makes_texts
from ebbtide.runtime.status import StatusFile
from ebbtide.runtime.toolkit import Framework, HuggingFace, PyTorch, Service

ECHO = "ebbtide/echo"


def load(deployment: Deployment, status: StatusFile) -> Service | Echo:
    """Prepare the model where that is still to do, then load it.

    Raises LoadFailure naming the cause; what the user's model_fn raises passes through.
    """
    status.enter("preparing")
    if deployment.model_id == ECHO:
        return Echo()
    user = _user_handlers(deployment)
    framework: Framework = HuggingFace() if deployment.repository == HUGGING_FACE else PyTorch()
    folder = deployment.model_dir
    if deployment.model_id not in (None, extract.MODEL_ID):
        folder = preparation.fetched(deployment)
    if user.model_fn:
        status.enter("loading")
        directory = str(folder or "")
        model: Any = user.model_fn(directory, Context({"model_dir": directory, "gpu_id": None}))
    else:
        model = _pipeline(deployment, folder, status)
    return Service(framework, user, model, folder)


def prepare(deployment: Deployment) -> None:
    """Do what a model version needs once: fetch it and convert it, so that instances only load it.

    Raises LoadFailure naming the cause.
    """
    if deployment.model_id in (ECHO, extract.MODEL_ID):
        return
    user = _user_handlers(deployment)
    folder = preparation.fetched(deployment, refresh=True) if deployment.model_id else deployment.model_dir
    if folder and not user.model_fn:
        task = _task(deployment, folder)
        if makes_texts(task):
            from ebbtide.runtime import engines

            prepared = preparation.converted(deployment, folder, task)
            engines.prepare(prepared, threads=deployment.threads)
        else:
            tasks.check(task)


def _user_handlers(deployment: Deployment) -> Handlers:
    """The handlers in the archive, or in the directory that HF_MODEL_ID names; none if there are none."""
    program = deployment.program
    found = Handlers()
    roots = [root for root in (deployment.model_dir, preparation.local_directory(deployment)) if root]
    code = next((root / "code" for root in roots if (root / "code" / program).is_file()), None)
    if code:
        found = handlers.load(code, program)
    elif deployment.environment.get("SAGEMAKER_PROGRAM"):
        raise LoadFailure(f"SAGEMAKER_PROGRAM names code/{program}, which is not in the model's files")
    if deployment.repository == PYTORCH and not found.model_fn:
        raise LoadFailure(f"{PYTORCH} serves archives whose code/{program} has model_fn")
    return found


def _pipeline(deployment: Deployment, folder: Path | None, status: StatusFile) -> Any:
    """What the framework's default handlers call with a request's inputs and parameters."""
    if deployment.model_id == extract.MODEL_ID:
        task = deployment.environment.get("HF_TASK") or "summarization"
        if not makes_texts(task):
            raise LoadFailure(f"HF_TASK {task} is not served by {extract.MODEL_ID}")
        status.enter("loading")
        return extract.ExtractivePipeline(answer_member(task))
    if folder is None:
        raise LoadFailure("Neither HF_MODEL_ID nor ModelDataUrl names a model")
    task = _task(deployment, folder)
    if not makes_texts(task):
        status.enter("loading")
        pipeline = tasks.load(
            task, folder, threads=deployment.threads, trust_remote_code=deployment.trusts_remote_code
        )
        status.describe(pipeline.describe())
        return pipeline
    converted = preparation.converted(deployment, folder, task)
    status.enter("loading")
    # Slow: they import the engine.
    from ebbtide.runtime import engines
    from ebbtide.runtime.articles import Articles
    from ebbtide.runtime.summariser import Summariser

    load_engine = engines.loader(
        converted,
        folder,
        threads=deployment.threads,
        trust_remote_code=deployment.trusts_remote_code,
    )
    summariser = Summariser.load(converted, load_engine, task=task)
    status.describe(summariser.engine.describe())
    return Articles(
        summariser,
        merges=task == "summarization",
        identity=converted.name,
        kept=deployment.cache / "parts",
    )


def _task(deployment: Deployment, folder: Path) -> str:
    return deployment.environment.get("HF_TASK") or tasks.inferred(folder)
