"""A PDF read in a process of its own: a small one can unpack to more memory than there is, and what breaks
PDFium breaks its process. So neither ends the model server; and several PDFs are read at once, where PDFium
serves one thread of a process.
"""

import json
import resource
import signal
import subprocess
import sys
from dataclasses import asdict
from importlib.util import find_spec

from ebbtide.runtime.documents.document import Document
from ebbtide.runtime.errors import BadRequest

MEMORY_BYTES = 2 << 30
"""What reading may take beside the file itself; a book of 10,000 pages takes a quarter of it."""

CPU_S = 1200
"""What nobody waits for any more ends by itself, too."""

REFUSED = 3
"""The exit code when the answer is why the file cannot be read."""


def read(body: bytes) -> Document:
    """As pdf.read. Raises BadRequest for what takes too much memory or time, or breaks PDFium, too."""
    if find_spec("pypdfium2") is None:
        raise ModuleNotFoundError("No module named 'pypdfium2'", name="pypdfium2")
    # -I: the modules of a model's own code are not its affair.
    command = [sys.executable, "-I", "-m", __name__]
    done = subprocess.run(command, input=body, capture_output=True, check=False)  # noqa: S603
    if done.returncode == 0:
        return Document(**json.loads(done.stdout))
    if done.returncode == REFUSED:
        raise BadRequest(done.stdout.decode())
    if done.returncode == -signal.SIGXCPU:
        raise BadRequest(f"The PDF cannot be read: it takes more than {CPU_S} s of a processor")
    raise BadRequest(
        f"The PDF cannot be read: it takes more than {MEMORY_BYTES} bytes of memory, or breaks PDFium"
    )


def main() -> int:
    """Read a PDF from standard input, and write what is in it, or why that cannot be read."""
    from ebbtide.runtime.documents import pdf

    body = sys.stdin.buffer.read()
    memory_bytes = MEMORY_BYTES + 2 * len(body)
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_S, CPU_S + 1))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        document = pdf.read(body)
    except BadRequest as refusal:
        sys.stdout.buffer.write(str(refusal).encode())
        return REFUSED
    json.dump(asdict(document), sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main())
