"""What is deployed: a directory of ONNX segments with a manifest that names and hashes every file. Torch-free."""
