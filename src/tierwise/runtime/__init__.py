"""Runs artifacts: executor, node (the server on a tier), deployment to nodes, and the client's pipeline. Torch-free."""

from tierwise.runtime._check import check
from tierwise.runtime._deploy import deploy, undeploy
from tierwise.runtime._executor import Executor, default_threads
from tierwise.runtime._pipeline import CLIENT, Pipeline, PipelineSUT
from tierwise.runtime._probe import PROBE
from tierwise.runtime._rollout import NodeSurvey, Rollout, is_serving, roll_out, survey, withdraw
from tierwise.runtime._serve import serve
from tierwise.runtime._spec import Batching, NodeSpec, Placed, Share

__all__ = [
    "CLIENT",
    "PROBE",
    "Batching",
    "Executor",
    "NodeSpec",
    "NodeSurvey",
    "Pipeline",
    "PipelineSUT",
    "Placed",
    "Rollout",
    "Share",
    "check",
    "default_threads",
    "deploy",
    "is_serving",
    "roll_out",
    "serve",
    "survey",
    "undeploy",
    "withdraw",
]
