"""The tables of types and names are those of the library that is installed."""

from __future__ import annotations

import ctypes
from pathlib import Path

import pytest
from gguf_files import STRING, RawFile, Save
from gguf_native import Native

from samovar.gguf import TENSOR_TYPES
from samovar.gguf.architectures import KNOWN
from samovar.gguf.tensor import REMOVED_TENSOR_TYPES

pytestmark = pytest.mark.native
llama_cpp = pytest.importorskip("llama_cpp.llama_cpp")


def test_tensor_types_are_those_of_the_library() -> None:
    ggml = ctypes.CDLL(str(next(Path(llama_cpp.__file__).parent.glob("lib/libggml-base.so"))))
    ggml.ggml_type_name.restype = ctypes.c_char_p
    ggml.ggml_type_size.restype = ctypes.c_size_t
    ggml.ggml_blck_size.restype = ctypes.c_int64
    for type_id, kind in TENSOR_TYPES.items():
        assert ggml.ggml_type_name(type_id).decode().upper() == kind.name.upper()
        assert ggml.ggml_blck_size(type_id) == kind.block_elements
        assert ggml.ggml_type_size(type_id) == kind.block_bytes
    for type_id in REMOVED_TENSOR_TYPES:
        assert ggml.ggml_type_size(type_id) == 0


def test_architectures_are_those_of_the_library(llama: RawFile, save: Save) -> None:
    with Native() as native:
        for name in sorted(KNOWN | {"gptj", "llama99", "(unknown)"}):
            path = save(llama.with_tensors([]).set("general.architecture", STRING, name))
            answer = native.ask(path, "vocabulary")
            assert answer == ("loaded" if name in KNOWN else "refused"), name
