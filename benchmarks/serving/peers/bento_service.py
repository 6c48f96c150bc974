"""BentoML serving an ONNX file, told by MODEL and BATCH in the environment: bentoml serve bento_service:Server."""

import os

import bentoml
import numpy as np
import onnxruntime as ort

BATCH = int(os.environ["BATCH"])
BATCHING = {"batchable": True, "max_batch_size": BATCH, "max_latency_ms": 1000} if BATCH > 1 else {}


@bentoml.service(workers=1, traffic={"timeout": 60, "max_concurrency": 1000})
class Server:
    def __init__(self):
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = ort.InferenceSession(os.environ["MODEL"], options, providers=["CPUExecutionProvider"])

    @bentoml.api(**BATCHING)
    def predict(self, x: np.ndarray) -> np.ndarray:
        return self.session.run(None, {"x": np.asarray(x, np.float32)})[0]
