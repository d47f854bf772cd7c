"""Where the tensors lie in the file, and whether the file is all there."""

from __future__ import annotations

from collections import Counter

from samovar.errors import MalformedGGUF, UnsupportedModel
from samovar.gguf.header import Header, Part
from samovar.gguf.show import shown
from samovar.gguf.tensor import REMOVED_TENSOR_TYPES, TENSOR_TYPES, TensorInfo

# The buffer that llama.cpp maps a file into must be aligned so: `TENSOR_ALIGNMENT`, asserted in
# `ggml_backend_cpu_buffer_from_ptr` (ggml/src/ggml-backend.cpp).
LEAST_ALIGNMENT = 32
# What 64 signed bits hold.
MAX_ELEMENTS = (1 << 63) - 1


def check_layout(header: Header) -> None:
    """Checks the tensor table of a model or an adapter against the size of its files.

    Raises MalformedGGUF, or UnsupportedModel for tensor types this build does not have.
    """
    _check_names(header)
    of_part: dict[int, list[TensorInfo]] = {}
    for tensor in header.tensors:
        of_part.setdefault(tensor.part, []).append(tensor)
    for number, tensors in of_part.items():
        _check_part(header.parts[number], tensors)


def _check_names(header: Header) -> None:
    names = Counter(tensor.name for tensor in header.tensors)
    repeated = [name for name, times in names.items() if times > 1]
    if repeated:
        raise _damaged(header.parts[0], f"the tensor {shown(repeated[0])} is in it twice")


def _check_part(part: Part, tensors: list[TensorInfo]) -> None:
    if part.alignment < LEAST_ALIGNMENT:
        raise UnsupportedModel(
            f"{shown(part.path)} aligns its tensors to {part.alignment} bytes, and llama.cpp "
            f"needs at least {LEAST_ALIGNMENT}: convert the model again"
        )
    for tensor in tensors:
        _check_tensor(part, tensor)
    # llama.cpp takes tensors only in the order of their data and without gaps.
    expected = 0
    for tensor in tensors:
        if tensor.offset != expected:
            raise _misplaced(part, tensor, expected)
        expected += -(-tensor.num_bytes // part.alignment) * part.alignment
    _check_end(part, tensors)


def _check_tensor(part: Part, tensor: TensorInfo) -> None:
    name = shown(tensor.name)
    kind = TENSOR_TYPES.get(tensor.type_id)
    if kind is None:
        removed = REMOVED_TENSOR_TYPES.get(tensor.type_id)
        what = f"{removed}, which llama.cpp dropped" if removed else f"unknown: {tensor.type_id}"
        raise UnsupportedModel(
            f"{shown(part.path)}: the type of tensor {name} is {what}; get a newer file, or "
            "update Samovar if the file is newer than it"
        )
    if 0 in tensor.shape:
        raise _damaged(part, f"the tensor {name} has no elements")
    if tensor.num_elements > MAX_ELEMENTS or tensor.num_bytes > MAX_ELEMENTS:
        raise _damaged(part, f"the tensor {name} has {tensor.num_elements} elements")
    if tensor.row_elements % kind.block_elements:
        raise _damaged(
            part,
            f"the rows of tensor {name} have {tensor.row_elements} elements, and {kind.name} "
            f"comes in blocks of {kind.block_elements}",
        )


def _misplaced(part: Part, tensor: TensorInfo, expected: int) -> MalformedGGUF:
    name = shown(tensor.name)
    if tensor.offset % part.alignment:
        return _damaged(part, f"the tensor {name} is not aligned to {part.alignment} bytes")
    if tensor.offset < expected:
        return _damaged(part, f"the tensor {name} overlaps the one before it")
    return _damaged(part, f"there is a gap before the tensor {name}")


def _check_end(part: Part, tensors: list[TensorInfo]) -> None:
    last = tensors[-1]
    missing = part.data_offset + last.offset + last.num_bytes - part.file_size
    if missing > 0:
        total = part.file_size + missing
        raise MalformedGGUF(
            f"{shown(part.path)} is cut short: {missing} of its {total} bytes are missing; "
            "download it again"
        )


def _damaged(part: Part, problem: str) -> MalformedGGUF:
    return MalformedGGUF(
        f"{shown(part.path)}: {problem}: the file is damaged or badly converted, download it again"
    )
