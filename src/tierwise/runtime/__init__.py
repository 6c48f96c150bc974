"""Runs artifacts: executor, node (the server on a tier), deployment to nodes, and the client's pipeline. Torch-free."""

from tierwise.runtime._deploy import deploy, undeploy
from tierwise.runtime._executor import Executor, default_threads, tensors_at
from tierwise.runtime._pipeline import CLIENT, Pipeline, PipelineSUT
from tierwise.runtime._probe import PROBE
from tierwise.runtime._rollout import NodeSurvey, Rollout, is_serving, roll_out, survey, withdraw
from tierwise.runtime._serve import serve
from tierwise.runtime._spec import NodeSpec, Placed, Share

__all__ = [
    "CLIENT",
    "PROBE",
    "Executor",
    "NodeSpec",
    "NodeSurvey",
    "Pipeline",
    "PipelineSUT",
    "Placed",
    "Rollout",
    "Share",
    "default_threads",
    "deploy",
    "is_serving",
    "roll_out",
    "serve",
    "survey",
    "tensors_at",
    "undeploy",
    "withdraw",
]
