"""The probe's child: multiplies through every extra weight buffer and compares with a plain one.

Run as `python -m samovar.native.probe_child`. It talks to ggml directly, with the calls that
llama.cpp makes when it loads and runs a model, because that needs no model file and reaches every
kernel in a moment. Exit status 0: all products are right; `EXIT_WRONG`: one is not, and stderr says
which; death: the parent reads the last line of stdout, which names the product.
"""

from __future__ import annotations

import ctypes
import random
import resource
import signal
import sys
from array import array
from collections.abc import Iterator, Mapping, Sequence
from ctypes import POINTER, c_bool, c_char_p, c_float, c_int, c_int64, c_size_t, c_void_p
from pathlib import Path
from typing import Any

from samovar.native.probe import EXIT_WRONG, library_directory

# From ggml.h: every type that some extra buffer has kernels for.
TYPES = {
    "F16": 1,
    "Q4_0": 2,
    "Q4_1": 3,
    "Q8_0": 8,
    "Q2_K": 10,
    "Q4_K": 12,
    "Q5_K": 13,
    "Q6_K": 14,
    "IQ4_NL": 20,
    "IQ4_XS": 23,
    "MXFP4": 39,
}
F32 = 0

# A token alone, a small batch, and what fills an AMX tile in part and several of them whole.
ROWS = (1, 8, 24, 64)

# Two of the largest quantisation blocks deep; wide enough for one whole and one partial AMX block.
DEPTH, WIDTH = 512, 96

# The kernels round the inputs in different ways; a wrong product is off by its own size.
TOLERANCE = 0.05

THREADS = 2

# The end of a child whose parent is gone and whose library hangs.
LIFE_SECONDS = 300


class InitParams(ctypes.Structure):
    """struct ggml_init_params."""

    _fields_ = (("mem_size", c_size_t), ("mem_buffer", c_void_p), ("no_alloc", c_bool))


Signatures = Mapping[str, tuple[Any, Sequence[Any]]]

# What each function returns and takes. Nearly everything is a pointer that is only handed back.
_BASE: Signatures = {
    "ggml_init": (c_void_p, [InitParams]),
    "ggml_row_size": (c_size_t, [c_int, c_int64]),
    "ggml_quantize_chunk": (
        c_size_t,
        [c_int, POINTER(c_float), c_void_p, c_int64, c_int64, c_int64, c_void_p],
    ),
    "ggml_new_tensor_2d": (c_void_p, [c_void_p, c_int, c_int64, c_int64]),
    "ggml_mul_mat": (c_void_p, [c_void_p, c_void_p, c_void_p]),
    "ggml_new_graph": (c_void_p, [c_void_p]),
    "ggml_build_forward_expand": (None, [c_void_p, c_void_p]),
    "ggml_backend_cpu_buffer_type": (c_void_p, []),
    "ggml_backend_buft_name": (c_char_p, [c_void_p]),
    "ggml_backend_alloc_ctx_tensors_from_buft": (c_void_p, [c_void_p, c_void_p]),
    "ggml_backend_tensor_set": (None, [c_void_p, c_void_p, c_size_t, c_size_t]),
    "ggml_backend_tensor_get": (None, [c_void_p, c_void_p, c_size_t, c_size_t]),
    "ggml_backend_reg_dev_get": (c_void_p, [c_void_p, c_size_t]),
    "ggml_backend_reg_get_proc_address": (c_void_p, [c_void_p, c_char_p]),
    "ggml_backend_dev_supports_op": (c_bool, [c_void_p, c_void_p]),
    "ggml_backend_graph_compute": (c_int, [c_void_p, c_void_p]),
}
_CPU: Signatures = {
    "ggml_backend_cpu_reg": (c_void_p, []),
    "ggml_backend_cpu_init": (c_void_p, []),
    "ggml_backend_cpu_set_n_threads": (None, [c_void_p, c_int]),
}


class Ggml:
    """The two libraries that can multiply, and one CPU backend in them."""

    def __init__(self, directory: Path) -> None:
        # ggml-cpu finds ggml-base in its own directory, and takes the one that is loaded.
        self.base = _load(directory, "ggml-base", _BASE)
        self.cpu = _load(directory, "ggml-cpu", _CPU)
        self.backend = self.cpu.ggml_backend_cpu_init()
        self.cpu.ggml_backend_cpu_set_n_threads(self.backend, THREADS)
        self.registry = self.cpu.ggml_backend_cpu_reg()
        self.device = self.base.ggml_backend_reg_dev_get(self.registry, 0)

    def extra_buffers(self) -> Iterator[int]:
        """The buffer types that a model is loaded into with `use_extra_bufts`."""
        name = b"ggml_backend_dev_get_extra_bufts"
        address = self.base.ggml_backend_reg_get_proc_address(self.registry, name)
        if not address:
            return
        ask = ctypes.CFUNCTYPE(POINTER(c_void_p), c_void_p)(address)
        for pointer in ask(self.device):
            if not pointer:
                return
            yield pointer

    def name(self, buffer_type: int) -> str:
        """What llama.cpp's log calls the buffer type."""
        return str(self.base.ggml_backend_buft_name(buffer_type).decode())

    def quantized(self, kind: int, values: array[float]) -> ctypes.Array[ctypes.c_char]:
        """WIDTH rows of DEPTH values."""
        size = WIDTH * self.base.ggml_row_size(kind, DEPTH)
        weights = ctypes.create_string_buffer(size)
        source = (c_float * len(values)).from_buffer(values)
        self.base.ggml_quantize_chunk(kind, source, weights, 0, WIDTH, DEPTH, None)
        return weights

    def product(
        self,
        buffer_type: int,
        kind: int,
        weights: ctypes.Array[ctypes.c_char],
        inputs: array[float],
    ) -> array[float] | None:
        """Inputs times weights in this kind of buffer; None where it does not take them.

        Nothing is freed: the process ends soon, and what is not there cannot go wrong.
        """
        rows = len(inputs) // DEPTH
        matrix, held = self._tensor(kind, WIDTH, buffer_type)
        room = self._room()
        column = self.base.ggml_new_tensor_2d(room, F32, DEPTH, rows)
        result = self.base.ggml_mul_mat(room, matrix, column)
        # Asked before any weight is written: a buffer need not survive weights it does not take.
        if not held or not self.base.ggml_backend_dev_supports_op(self.device, result):
            return None
        plain = self.base.ggml_backend_cpu_buffer_type()
        self.base.ggml_backend_alloc_ctx_tensors_from_buft(room, plain)
        self.base.ggml_backend_tensor_set(matrix, weights, 0, len(weights))
        address, length = inputs.buffer_info()
        self.base.ggml_backend_tensor_set(column, address, 0, length * inputs.itemsize)
        graph = self.base.ggml_new_graph(room)
        self.base.ggml_build_forward_expand(graph, result)
        if self.base.ggml_backend_graph_compute(self.backend, graph) != 0:
            raise RuntimeError("ggml refused to compute")
        return self._read(result, rows * WIDTH)

    def _room(self) -> int:
        """A place for the descriptions of tensors; 1 MiB is ample for one graph."""
        return int(self.base.ggml_init(InitParams(1 << 20, None, True)))  # noqa: FBT003

    def _tensor(self, kind: int, rows: int, buffer_type: int) -> tuple[int, int | None]:
        room = self._room()
        tensor = self.base.ggml_new_tensor_2d(room, kind, DEPTH, rows)
        held = self.base.ggml_backend_alloc_ctx_tensors_from_buft(room, buffer_type)
        return tensor, held

    def _read(self, tensor: int, length: int) -> array[float]:
        values = array("f", bytes(4 * length))
        address, _ = values.buffer_info()
        self.base.ggml_backend_tensor_get(tensor, address, 0, 4 * length)
        return values


def _load(directory: Path, name: str, functions: Signatures) -> ctypes.CDLL:
    paths = [directory / f"lib{name}{suffix}" for suffix in (".so", ".dylib")]
    path = next((path for path in paths if path.exists()), None)
    if path is None:
        raise FileNotFoundError(f"no library {name} in {directory}")
    library = ctypes.CDLL(str(path))
    for function, (result, arguments) in functions.items():
        found = getattr(library, function)
        found.restype, found.argtypes = result, arguments
    return library


def error(found: array[float], expected: array[float]) -> float:
    """The largest difference, in units of the largest expected value."""
    scale = max(map(abs, expected))
    differences = [abs(one - other) for one, other in zip(found, expected, strict=True)]
    # max() loses NaN; a sum keeps it.
    return max(differences) / scale if sum(differences) < float("inf") else float("inf")


def complaints(ggml: Ggml) -> Iterator[str]:
    """Run all the products; yield what is wrong."""
    source = random.Random(1)
    values = array("f", (source.uniform(-1, 1) for _ in range(WIDTH * DEPTH)))
    inputs = array("f", (source.uniform(-1, 1) for _ in range(max(ROWS) * DEPTH)))
    plain = ggml.base.ggml_backend_cpu_buffer_type()
    extra_buffers = list(ggml.extra_buffers())
    for type_name, kind in TYPES.items():
        weights = ggml.quantized(kind, values)
        for rows in ROWS:
            part = inputs[: rows * DEPTH]
            expected = ggml.product(plain, kind, weights, part)
            for extra in extra_buffers:
                label = f"{ggml.name(extra)}, {type_name}, {rows} rows"
                sys.stdout.write(f"{label}\n")
                sys.stdout.flush()
                found = ggml.product(extra, kind, weights, part)
                if found is None or expected is None:
                    continue
                off = error(found, expected)
                if not off <= TOLERANCE:
                    yield f"wrong product ({label}: off by {off:.0%})"


def main() -> int:
    """Run the probe."""
    # A death is an answer here, not something to keep on disk.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.alarm(LIFE_SECONDS)
    directory = library_directory()
    if directory is None:
        sys.stderr.write("llama-cpp-python is not installed\n")
        return 1
    for complaint in complaints(Ggml(directory)):
        sys.stderr.write(f"{complaint}\n")
        return EXIT_WRONG
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
