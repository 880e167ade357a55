"""What runs inside an instance: a process that speaks SageMaker's container contract on a Unix socket.

A request passes `contract` (HTTP: /ping and /invocations), `toolkit` (the framework's content types, handlers
and errors) and a model: `summariser` on one of `engines`, `extractive`, transformers itself (`tasks`), or
what the user's inference.py loads.
`preparation` makes a model ready once per version: fetched from the Hub, converted, cached by content.

Nothing here imports ebbtide outside this package, so that it can run in a model's own environment.
"""

import time

ENTERED_AT = time.monotonic()
"""When a process of ours began to run Python: this is the first to be imported, and imports are timed."""
