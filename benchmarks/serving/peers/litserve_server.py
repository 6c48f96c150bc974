"""LitServe serving an ONNX file: python litserve_server.py MODEL PORT BATCH."""

import sys

import litserve as ls
import numpy as np
import onnxruntime as ort


class Api(ls.LitAPI):
    def __init__(self, path, **options):
        super().__init__(**options)
        self.path = path

    def setup(self, device):
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = ort.InferenceSession(self.path, options, providers=["CPUExecutionProvider"])

    def decode_request(self, request):
        return np.asarray(request["x"], np.float32)

    def batch(self, inputs):
        return np.concatenate(inputs)

    def predict(self, x):
        return self.session.run(None, {"x": x})[0]

    def unbatch(self, output):
        return [row[None] for row in output]

    def encode_response(self, output):
        return {"y": output.tolist()}


if __name__ == "__main__":
    path, port, batch = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    batching = {"max_batch_size": batch, "batch_timeout": 0.002} if batch > 1 else {}
    server = ls.LitServer(Api(path, **batching), accelerator="cpu", workers_per_device=1)
    server.run(host="127.0.0.1", port=port, num_api_servers=1, generate_client_file=False, log_level="warning")
