"""Runs artifacts: executor, node (the server on a tier), deployment to nodes, and the client's pipeline. Torch-free."""

from tierwise.runtime._deploy import deploy, undeploy
from tierwise.runtime._executor import Executor, default_threads
from tierwise.runtime._pipeline import CLIENT, Pipeline, PipelineSUT
from tierwise.runtime._probe import PROBE
from tierwise.runtime._serve import serve
from tierwise.runtime._spec import NodeSpec, Placed, Share

__all__ = [
    "CLIENT",
    "PROBE",
    "Executor",
    "NodeSpec",
    "Pipeline",
    "PipelineSUT",
    "Placed",
    "Share",
    "default_threads",
    "deploy",
    "serve",
    "undeploy",
]
