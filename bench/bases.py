"""int8 matrix products of the libraries that an engine could be built on, by the shapes of PEGASUS-large.

The same product everywhere: float32 activations, quantised as they come, against int8 weights packed before,
to float32. The weights change from product to product, so that with few rows they come from memory, as in a
decoding step. A library that is not installed is left out:
`pip install openvino onnxruntime torch` has them all.
"""

import importlib
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from ebbtide.runtime.engines.native.onnx_graph import CONTRIB, Graph

SHAPES = ((1024, 1024), (1024, 4096), (4096, 1024), (1024, 96103))
"""(inputs, outputs): attention, the two products of a feed-forward layer, the vocabulary."""

ROWS = (1, 8, 64, 512)
"""A greedy step, a step of 8 beams, one of 8 requests of 8 beams, an article in the encoder."""

THREADS = 2
WEIGHTS_BYTES = 96e6  # a multiple of the last cache
AT_LEAST_S, AT_LEAST_RUNS = 0.3, 3

Product = Callable[[np.ndarray], object]
"""Multiplies [rows, inputs] by each of some weight matrices."""


def measure() -> Iterator[tuple[str, str]]:
    """Yields (what, figure) pairs."""
    for base, (package, packed) in BASES.items():
        try:
            version = metadata.version(package)
        except metadata.PackageNotFoundError:
            yield f"{base}", f"not installed ({package})"
            continue
        for inputs, outputs in SHAPES:
            weights = _weights(inputs, outputs)
            product = packed(weights)
            rates = [_rate(product, rows, weights) for rows in ROWS]
            what = f"{base} {version}, int8 {inputs} x {outputs} at {', '.join(map(str, ROWS))} rows"
            yield what, f"{', '.join(f'{rate:.0f}' for rate in rates)} GOP/s"


def _weights(inputs: int, outputs: int) -> list[np.ndarray]:
    """int8 [outputs, inputs] each."""
    generator = np.random.default_rng(0)
    copies = max(1, int(WEIGHTS_BYTES / (inputs * outputs)))
    return [generator.integers(-127, 128, (outputs, inputs), dtype=np.int8) for _ in range(copies)]


def _rate(product: Product, rows: int, weights: list[np.ndarray]) -> float:
    """10^9 operations a second, of which a multiplication and an addition are two."""
    x = np.random.default_rng(1).standard_normal((rows, weights[0].shape[1]), dtype=np.float32)
    product(x)
    taken_s: list[float] = []
    while len(taken_s) < AT_LEAST_RUNS or sum(taken_s) < AT_LEAST_S:
        began_at = time.perf_counter()
        product(x)
        taken_s.append(time.perf_counter() - began_at)
    operations = 2 * rows * sum(matrix.size for matrix in weights)
    return operations / statistics.median(taken_s) / 1e9


def _scales(matrix: np.ndarray) -> np.ndarray:
    return np.full(matrix.shape[0], 0.001, np.float32)


def _openvino(weights: list[np.ndarray]) -> Product:
    openvino = importlib.import_module("openvino")
    opset = importlib.import_module("openvino.opset13")
    x = opset.parameter([-1, weights[0].shape[1]], np.float32)
    products = []
    for matrix in weights:
        real = opset.multiply(
            opset.convert(opset.constant(matrix), np.float32), opset.constant(_scales(matrix)[:, None])
        )
        products.append(opset.result(opset.matmul(x, real, False, True)))
    settings = {
        "INFERENCE_NUM_THREADS": THREADS,
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32",
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": 1024,  # rows; its default, 32 values a scale, is slower
    }
    model = openvino.Core().compile_model(openvino.Model(products, [x]), "CPU", settings)
    return model.create_infer_request().infer


def _onnx_runtime(weights: list[np.ndarray]) -> Product:
    onnxruntime = importlib.import_module("onnxruntime")
    outputs, inputs = weights[0].shape
    with TemporaryDirectory() as folder:
        graph = Graph(Path(folder) / "products.onnx")
        x = graph.input("x", "float32", ["rows", inputs])
        for number, matrix in enumerate(weights):
            constants = map(graph.constant, (matrix.T, _scales(matrix)))
            y = graph.node("DynamicQuantizeMatMul", x, *constants, domain=CONTRIB)
            graph.output(f"y{number}", y, "float32", ["rows", outputs])
        graph.save()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = THREADS
        session = onnxruntime.InferenceSession(
            str(Path(folder) / "products.onnx"), options, providers=["CPUExecutionProvider"]
        )
    return lambda x: session.run(None, {"x": x})


def _torch(engine: str) -> Callable[[list[np.ndarray]], Product]:
    """engine: of torch's quantised linear layers, fbgemm or onednn."""

    def packed(weights: list[np.ndarray]) -> Product:
        torch = importlib.import_module("torch")
        warnings.filterwarnings(
            "ignore", category=UserWarning, module="torch"
        )  # of their removal, and theirs
        torch.set_num_threads(THREADS)
        torch.backends.quantized.engine = engine
        layers = []
        for matrix in weights:
            quantised = torch._make_per_channel_quantized_tensor(
                torch.from_numpy(matrix),
                torch.from_numpy(_scales(matrix)),
                torch.zeros(len(matrix), dtype=torch.long),
                0,
            )
            layers.append(torch.ops.quantized.linear_prepack(quantised, None))

        def product(x: np.ndarray) -> None:
            given = torch.from_numpy(x)
            for layer in layers:
                torch.ops.quantized.linear_dynamic(given, layer, reduce_range=False)

        return product

    return packed


BASES: dict[str, tuple[str, Callable[[list[np.ndarray]], Product]]] = {
    "OpenVINO": ("openvino", _openvino),
    "ONNX Runtime": ("onnxruntime", _onnx_runtime),
    "torch, FBGEMM": ("torch", _torch("fbgemm")),
    "torch, oneDNN": ("torch", _torch("onednn")),
}
"""By name: the package, and what packs weights for it."""


if __name__ == "__main__":
    for what, figure in measure():
        print(f"{what}: {figure}")
