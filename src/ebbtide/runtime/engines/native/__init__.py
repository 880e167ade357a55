"""An engine of our own: a decode loop over ONNX Runtime's packed matrix products, for CPUs.

A checkpoint's weights (`families.py`) are written into graphs (`graphs.py`, `onnx_graph.py`) and packed for
the processor, once (`preparation.py`). A request's sources enter the loop (`engine.py`), are encoded
(`model.py`), and take part in every step of the batch (`batch.py`) until their searches (`search.py`,
`constraints.py`) are done.
"""

import os

# From release 1.29 on, ONNX Runtime tells its makers of every process and session, unless this is set before
# it is imported. What a server computes is its owner's alone; and the thread that sends would forbid forking.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
