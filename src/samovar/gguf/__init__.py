"""Reads and judges GGUF files before llama.cpp sees them.

llama.cpp ends the process on some damaged or absurd files (an assertion, an allocation of what
the file asks for, a jump through a null pointer). `read_header` reads what a file says about
itself in pure Python, `check` refuses what llama.cpp would not survive, with an error whose one
line says what is wrong and what to do. Nothing here imports llama.cpp, so any process may use it.
"""

from samovar.gguf.checks import check, check_adapter, check_vocabulary
from samovar.gguf.header import Header, Part
from samovar.gguf.memory import (
    ContextShape,
    KvBytes,
    context_bytes,
    kv_bytes_per_token,
    weights_bytes,
)
from samovar.gguf.split import read_header
from samovar.gguf.tensor import FILE_TYPES, TENSOR_TYPES, TensorInfo
from samovar.gguf.values import ArrayRef, StringArray, Value, ValueType

__all__ = [
    "FILE_TYPES",
    "TENSOR_TYPES",
    "ArrayRef",
    "ContextShape",
    "Header",
    "KvBytes",
    "Part",
    "StringArray",
    "TensorInfo",
    "Value",
    "ValueType",
    "check",
    "check_adapter",
    "check_vocabulary",
    "context_bytes",
    "kv_bytes_per_token",
    "read_header",
    "weights_bytes",
]
