"""The Open Inference Protocol v2 over gRPC with the model repository extension: messages and client. Torch-free."""

from tierwise.wire._channel import CHANNEL_OPTIONS
from tierwise.wire._client import (
    Exchange,
    Inference,
    InferenceClient,
    ModelMetadata,
    ModelStatus,
    ServerMetadata,
    status_of,
)
from tierwise.wire._credentials import (
    CREDENTIALS_VARIABLE,
    Credentials,
    Keyring,
    find_credentials,
    is_local,
    load_keyring,
)
from tierwise.wire._frames import Field, message_fields
from tierwise.wire._limits import UNLIMITED, TensorLimits
from tierwise.wire._messages import (
    METHODS,
    METRICS_PATH,
    Framed,
    Parameter,
    decode_request,
    decode_response,
    infer_request,
    infer_response,
    read_parameters,
    write_parameters,
)
from tierwise.wire._push import Push, decode_push
from tierwise.wire._rest import RestForm, rest_answer, rest_request, rest_response
from tierwise.wire._rest_push import rest_push
from tierwise.wire._stubs import open_inference_pb2 as protocol
from tierwise.wire._tensors import InferTensor, dtype_name, from_message, from_typed, to_message
from tierwise.wire._tls import ClientTls, ServerTls, certificate_problems, server_context, server_tls
from tierwise.wire._tokens import Scope, Token, TokenBook, new_token, read_tokens, revoke_token
from tierwise.wire._trace_context import TRACEPARENT, TraceContext
from tierwise.wire._trainer_pipe import (
    CHECKPOINT,
    WEIGHTS,
    TrainerAsk,
    TrainerCharge,
    TrainerTold,
    read_note,
    write_note,
)
from tierwise.wire._training import (
    LABELS,
    STEP,
    TRAINING_SERVICE,
    BatchTaken,
    TrainingOrder,
    TrainingProgress,
    TrainingState,
    TrainingStatus,
    TrainingVerb,
)
from tierwise.wire._training_client import TrainingClient

__all__ = [
    "CHANNEL_OPTIONS",
    "CHECKPOINT",
    "CREDENTIALS_VARIABLE",
    "LABELS",
    "METHODS",
    "METRICS_PATH",
    "STEP",
    "TRACEPARENT",
    "TRAINING_SERVICE",
    "UNLIMITED",
    "WEIGHTS",
    "BatchTaken",
    "ClientTls",
    "Credentials",
    "Exchange",
    "Field",
    "Framed",
    "InferTensor",
    "Inference",
    "InferenceClient",
    "Keyring",
    "ModelMetadata",
    "ModelStatus",
    "Parameter",
    "Push",
    "RestForm",
    "Scope",
    "ServerMetadata",
    "ServerTls",
    "TensorLimits",
    "Token",
    "TokenBook",
    "TraceContext",
    "TrainerAsk",
    "TrainerCharge",
    "TrainerTold",
    "TrainingClient",
    "TrainingOrder",
    "TrainingProgress",
    "TrainingState",
    "TrainingStatus",
    "TrainingVerb",
    "certificate_problems",
    "decode_push",
    "decode_request",
    "decode_response",
    "dtype_name",
    "find_credentials",
    "from_message",
    "from_typed",
    "infer_request",
    "infer_response",
    "is_local",
    "load_keyring",
    "message_fields",
    "new_token",
    "protocol",
    "read_note",
    "read_parameters",
    "read_tokens",
    "rest_answer",
    "rest_push",
    "rest_request",
    "rest_response",
    "revoke_token",
    "server_context",
    "server_tls",
    "status_of",
    "to_message",
    "write_note",
    "write_parameters",
]
