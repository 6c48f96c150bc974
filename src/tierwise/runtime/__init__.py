"""Runs artifacts: executor, node (the server on a tier), deployment to nodes, and the client's pipeline. Torch-free."""

from tierwise.runtime._adaptive import AdaptivePipeline, AnswerObserver, PipelineFacts
from tierwise.runtime._breaker import Breaker, BreakerSpec
from tierwise.runtime._check import check
from tierwise.runtime._chooser import Candidate, Choice, Chooser
from tierwise.runtime._client_metrics import ClientMetrics
from tierwise.runtime._dangers import cautions
from tierwise.runtime._deploy import deploy, undeploy
from tierwise.runtime._executor import Executor, default_threads, tensors_at
from tierwise.runtime._link_state import LinkFacts, LinkState
from tierwise.runtime._metrics import NodeMetrics
from tierwise.runtime._metrics_routes import metrics_routes
from tierwise.runtime._metrics_server import metrics_server
from tierwise.runtime._observability import ObservabilitySpec
from tierwise.runtime._paths import Paths, PathSpec, PictureFile, load_paths
from tierwise.runtime._pipeline import CLIENT, Pipeline, PipelineSUT
from tierwise.runtime._probe import PROBE
from tierwise.runtime._rollout import NodeSurvey, Rollout, is_serving, roll_out, survey, withdraw
from tierwise.runtime._route import PathFacts
from tierwise.runtime._security import NodeLimits, SecuritySpec
from tierwise.runtime._serve import serve
from tierwise.runtime._spec import Batching, NodeSpec, Placed, Share
from tierwise.runtime._tracing import Tracing, open_tracing

__all__ = [
    "CLIENT",
    "PROBE",
    "AdaptivePipeline",
    "AnswerObserver",
    "Batching",
    "Breaker",
    "BreakerSpec",
    "Candidate",
    "Choice",
    "Chooser",
    "ClientMetrics",
    "Executor",
    "LinkFacts",
    "LinkState",
    "NodeLimits",
    "NodeMetrics",
    "NodeSpec",
    "NodeSurvey",
    "ObservabilitySpec",
    "PathFacts",
    "PathSpec",
    "Paths",
    "PictureFile",
    "Pipeline",
    "PipelineFacts",
    "PipelineSUT",
    "Placed",
    "Rollout",
    "SecuritySpec",
    "Share",
    "Tracing",
    "cautions",
    "check",
    "default_threads",
    "deploy",
    "is_serving",
    "load_paths",
    "metrics_routes",
    "metrics_server",
    "open_tracing",
    "roll_out",
    "serve",
    "survey",
    "tensors_at",
    "undeploy",
    "withdraw",
]
