"""Runs artifacts: executor, node (the server on a tier), deployment to nodes, and the client's pipeline. Torch-free."""

from tierwise.runtime._adaptive import AdaptivePipeline, AnswerObserver, PipelineFacts
from tierwise.runtime._breaker import Breaker, BreakerSpec
from tierwise.runtime._chooser import Candidate, Choice, Chooser
from tierwise.runtime._deploy import deploy, undeploy
from tierwise.runtime._executor import Executor, default_threads, tensors_at
from tierwise.runtime._link_state import LinkFacts, LinkState
from tierwise.runtime._paths import Paths, PathSpec, load_paths
from tierwise.runtime._pipeline import CLIENT, Pipeline, PipelineSUT
from tierwise.runtime._probe import PROBE
from tierwise.runtime._rollout import NodeSurvey, Rollout, is_serving, roll_out, survey, withdraw
from tierwise.runtime._route import PathFacts
from tierwise.runtime._serve import serve
from tierwise.runtime._spec import NodeSpec, Placed, Share

__all__ = [
    "CLIENT",
    "PROBE",
    "AdaptivePipeline",
    "AnswerObserver",
    "Breaker",
    "BreakerSpec",
    "Candidate",
    "Choice",
    "Chooser",
    "Executor",
    "LinkFacts",
    "LinkState",
    "NodeSpec",
    "NodeSurvey",
    "PathFacts",
    "PathSpec",
    "Paths",
    "Pipeline",
    "PipelineFacts",
    "PipelineSUT",
    "Placed",
    "Rollout",
    "Share",
    "default_threads",
    "deploy",
    "is_serving",
    "load_paths",
    "roll_out",
    "serve",
    "survey",
    "tensors_at",
    "undeploy",
    "withdraw",
]
