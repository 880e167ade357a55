"""What an instance is to serve: image, model files and environment, as CreateModel gave them."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ebbtide.runtime.errors import LoadFailure

HUGGING_FACE = "huggingface-pytorch-inference"
PYTORCH = "pytorch-inference"

DEFAULT_CACHE_BYTES = 64 << 30


@dataclass(frozen=True, slots=True)
class Deployment:
    """`model_dir`: the unpacked archive, or None. `cache`: shared by all instances of the machine.

    `cache_bytes`: what prepared models that nobody uses may take there, with those in use.
    """

    repository: str
    model_dir: Path | None
    cache: Path
    environment: Mapping[str, str]
    concurrency: int = 1
    cache_bytes: int = DEFAULT_CACHE_BYTES

    @property
    def model_id(self) -> str | None:
        """HF_MODEL_ID, which beats the archive's model: only its code is used then."""
        return self.environment.get("HF_MODEL_ID") or None

    @property
    def program(self) -> str:
        """The handlers' file name. The SageMaker SDK sends an empty one when there is no script."""
        return self.environment.get("SAGEMAKER_PROGRAM") or "inference.py"

    @property
    def trusts_remote_code(self) -> bool:
        """Whether code among the model's files may run: HF_TRUST_REMOTE_CODE, as the toolkit reads it.

        Raises LoadFailure when that is neither yes nor no.
        """
        said = self.environment.get("HF_TRUST_REMOTE_CODE") or "false"
        if said.lower() in ("y", "yes", "t", "true", "on", "1"):
            return True
        if said.lower() in ("n", "no", "f", "false", "off", "0"):
            return False
        raise LoadFailure(f"HF_TRUST_REMOTE_CODE is true or false, not {said}")

    @property
    def threads(self) -> int:
        """The cores this instance may use."""
        return max(1, int(self.environment.get("OMP_NUM_THREADS") or 1))


def repository_of(image: str) -> str:
    """The repository name in an image's URI; it decides the runtime, the account and the region do not.

    Raises LoadFailure for a repository that no runtime here serves.
    """
    repository = image.rpartition("/")[2].partition("@")[0].partition(":")[0]
    if repository not in (HUGGING_FACE, PYTORCH):
        raise LoadFailure(
            f"No runtime serves the image repository {repository or '(empty)'}; "
            f"there are {HUGGING_FACE} and {PYTORCH}"
        )
    return repository
