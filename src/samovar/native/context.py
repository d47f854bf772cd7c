"""One llama.cpp context: the KV cells of a model and the calls that read and write them."""

from __future__ import annotations

import ctypes
import functools
import math
import os
import time
from dataclasses import dataclass, replace
from typing import Any, Literal

import llama_cpp.llama_cpp as ll
import numpy as np

from samovar.errors import InvalidRequest, LoadFailed, NativeError, OutOfMemory
from samovar.native import library, memory
from samovar.native.batch import Batch
from samovar.native.deadline import ABORT_CALLBACK, Deadline
from samovar.native.handle import Handle
from samovar.native.interface import ABORTED, DECODED, NO_ROOM, Aborted, Decoded, NoRoom
from samovar.native.model import Model
from samovar.native.waiting import Waiting

MAX_SEQUENCES = int(ll.llama_max_parallel_sequences())
"""llama.cpp's compiled limit of sequence ids in one context."""

_MAX_CELLS = 2**31  # positions and cells are 32-bit; a larger product would wrap around
MAX_THREADS = 512  # ggml's own (GGML_MAX_N_THREADS)
KV_TYPES = {"f32": 0, "f16": 1, "q4_0": 2, "q4_1": 3, "q5_0": 6, "q5_1": 7, "q8_0": 8, "bf16": 30}
_FLASH = {"auto": -1, "off": 0, "on": 1}
POOLING = {"none": 0, "mean": 1, "cls": 2, "last": 3, "rank": 4}

# Bindings of our own: the address as an integer, without a ctypes pointer object per call.
_logits_ith = ll._lib["llama_get_logits_ith"]  # noqa: SLF001 - the loaded library itself
_logits_ith.argtypes, _logits_ith.restype = [ctypes.c_void_p, ctypes.c_int32], ctypes.c_void_p
_order_rows = ll._lib["llama_get_logits"]  # noqa: SLF001
_order_rows.argtypes, _order_rows.restype = [ctypes.c_void_p], None
_embeddings_ith = ll._lib["llama_get_embeddings_ith"]  # noqa: SLF001
_embeddings_ith.argtypes = [ctypes.c_void_p, ctypes.c_int32]
_embeddings_ith.restype = ctypes.c_void_p
_embeddings_seq = ll._lib["llama_get_embeddings_seq"]  # noqa: SLF001
_embeddings_seq.argtypes = [ctypes.c_void_p, ctypes.c_int32]
_embeddings_seq.restype = ctypes.c_void_p


@dataclass(frozen=True, slots=True)
class ContextOptions:
    """The shape of a context. Zero or None leaves a value to the model or the machine."""

    context_length: int = 0
    """Tokens that one sequence may hold; 0: what the model was trained for. In the pool layout
    it is what all sequences share."""
    num_sequences: int = 1
    layout: Literal["lanes", "pool"] = "lanes"
    batch_size: int = 512
    """Most tokens of one decode call, and the fixed grid of prefill chunks."""
    micro_batch_size: int = 512
    threads: int = 0
    """0: one per core that this process may use."""
    flash_attention: Literal["auto", "on", "off"] = "auto"
    type_k: str = "f16"
    type_v: str = "f16"
    offload_kv: bool = True
    full_window: bool = False
    """Keep the KV of sliding-window layers beyond the window, so that it can be cut anywhere."""
    rope_freq_base: float = 0.0
    rope_freq_scale: float = 0.0
    decode_seconds: float = 30.0
    """Deadline of one decode call; `inf`: none."""
    pooling: str | None = None
    """Embedding contexts only: how rows become one vector; None: as the file says."""
    embeddings: bool = False
    check_memory: bool = True

    def __post_init__(self) -> None:
        _check_options(self)


def _check_options(options: ContextOptions) -> None:
    _check_sizes(options)
    if options.layout not in ("lanes", "pool"):
        raise InvalidRequest("layout must be 'lanes' or 'pool'")
    if options.flash_attention not in _FLASH:
        raise InvalidRequest("flash_attention must be 'auto', 'on' or 'off'")
    for name in (options.type_k, options.type_v):
        if name not in KV_TYPES:
            raise InvalidRequest(f"unknown KV type {name!r}; use one of {', '.join(KV_TYPES)}")
    if options.type_v not in ("f16", "f32", "bf16") and options.flash_attention == "off":
        raise InvalidRequest("a quantised V cache needs flash attention; leave it on or auto")
    if options.pooling is not None and options.pooling not in POOLING:
        raise InvalidRequest(f"pooling must be one of {', '.join(POOLING)}")
    for factor in (options.rope_freq_base, options.rope_freq_scale):
        if not 0 <= factor < math.inf:
            raise InvalidRequest("rope_freq_base and rope_freq_scale must be 0 or positive numbers")
    if not options.decode_seconds > 0:
        raise InvalidRequest("decode_seconds must be positive; use inf for no deadline")


def _check_sizes(options: ContextOptions) -> None:
    if not 1 <= options.num_sequences <= MAX_SEQUENCES:
        raise InvalidRequest(f"num_sequences must be between 1 and {MAX_SEQUENCES}")
    if not 0 <= options.context_length < 2**31:
        raise InvalidRequest("context_length must be 0 (the model's own) or a positive number")
    if not 1 <= options.micro_batch_size <= options.batch_size < 2**20:
        raise InvalidRequest("batch_size must be at least micro_batch_size, and both positive")
    if options.num_sequences > options.batch_size:  # llama.cpp reserves one output for each
        raise InvalidRequest("batch_size must be at least num_sequences")
    if not 0 <= options.threads <= MAX_THREADS:
        raise InvalidRequest(f"threads must be between 1 and {MAX_THREADS}, or 0: one per core")


class Context:
    """KV cells, and one decode call at a time. One thread owns it; `abort` may come from others.

    Raises LoadFailed or OutOfMemory when llama.cpp cannot make it.
    """

    def __init__(self, model: Model, options: ContextOptions | None = None) -> None:
        self.model = model
        self.options = options = _resolve(model, options or ContextOptions())
        if options.check_memory:
            memory.check_context(model.header, options, model.mapped_bytes)
        self._deadline = Deadline()
        self._waiting = Waiting(options.threads)
        self.handle = _create(model, options, self._deadline)
        self.handle.watch(self)
        pointer = self.handle.pointer
        self.context_length = min(
            int(ll.llama_n_ctx_seq(pointer)), _learned_positions(model) or 2**31
        )
        """Tokens that one sequence can hold, as llama.cpp rounded it."""
        self.num_cells = int(ll.llama_n_ctx(pointer))
        self.num_sequences = int(ll.llama_n_seq_max(pointer))
        self.batch_size = int(ll.llama_n_batch(pointer))
        self.num_streams = 1 if options.layout == "pool" else self.num_sequences
        self.batch = Batch(self.batch_size)
        self._memory: int | None = ll.llama_get_memory(pointer)
        self._vocabulary_size = model.vocabulary.size
        self._views: dict[int, np.ndarray] = {}
        """Of logits, by address."""
        self._is_ordered = True
        """Whether the rows of the last call lie in the order of its batch."""

    def close(self) -> None:
        """Free the cells. Idempotent."""
        self._views.clear()
        self._waiting.close()
        self.handle.close()

    # ---- decoding -----------------------------------------------------------------------------

    def decode(self, batch: Batch, seconds: float | None = None) -> Decoded | NoRoom | Aborted:
        """Run the rows of `batch`. The caller has checked every id, position and length.

        `seconds` is the deadline of this call; None: the usual one of the context. NoRoom leaves
        everything as it was. After Aborted, rows of earlier micro-batches stay in the cells: the
        caller truncates. Raises NativeError for llama.cpp's other refusals.
        """
        try:
            self._deadline.arm(self.options.decode_seconds if seconds is None else seconds)
            pointer = self.handle.pointer
            # Rows that were computed in another order than that of the batch are put right when
            # they are first looked at. A call that finds no room forgets that, so look now.
            if not self._is_ordered:
                _order_rows(pointer)
            self._is_ordered = False
            self._waiting.before()
            began = time.monotonic()
            code = ll.llama_decode(pointer, batch.native)
            self._waiting.after(time.monotonic() - began)
        finally:
            self._deadline.disarm()
        if code == 0:
            return DECODED
        if code == 1:
            return NO_ROOM
        if code == 2:
            return Aborted(timed_out=True) if self._deadline.is_overdue else ABORTED
        raise NativeError(
            f"llama_decode failed with code {code}; run with --verbose to see llama.cpp's log"
        )

    def abort(self) -> None:
        """Interrupt the decode call that is running now, from any thread."""
        self._deadline.abort()

    def logits(self, row: int) -> np.ndarray:
        """The logits of row `row` of the last batch: float32, one per token of the vocabulary.

        A view into llama.cpp's buffer: read-only, and only valid until the next decode call.
        """
        address = _logits_ith(self.handle.pointer, row)
        if not address:
            raise NativeError(f"llama.cpp has no logits for row {row} of its last batch")
        self._is_ordered = True
        view = self._views.get(address)
        if view is None:
            if len(self._views) > 4 * MAX_SEQUENCES:  # the buffer moved: forget the old places
                self._views.clear()
            view = self._views[address] = _view(address, self._vocabulary_size)
        return view

    def embedding(self, *, row: int | None = None, seq_id: int | None = None) -> np.ndarray:
        """A copy of one output embedding: of a row, or pooled over a sequence."""
        pointer = self.handle.pointer
        found = (
            _embeddings_ith(pointer, row) if seq_id is None else _embeddings_seq(pointer, seq_id)
        )
        if not found:
            raise NativeError("llama.cpp returned no embedding; is this an embedding context?")
        return _view(found, self.model.embedding_width).copy()

    # ---- cells --------------------------------------------------------------------------------

    @property
    def has_memory(self) -> bool:
        """Whether there are cells at all; encoders have none."""
        return self._memory is not None

    def first_position(self, seq_id: int) -> int:
        """The least position from which on every cell of the sequence is there; -1: empty."""
        return int(ll.llama_memory_seq_pos_min(self._cells(), seq_id))

    def last_position(self, seq_id: int) -> int:
        """The greatest position of the sequence; -1: empty."""
        return int(ll.llama_memory_seq_pos_max(self._cells(), seq_id))

    def remove(self, seq_id: int, start: int, end: int = -1) -> bool:
        """Remove positions from `start` to before `end` (-1: all after). False: refused."""
        return bool(ll.llama_memory_seq_rm(self._cells(), seq_id, start, end))

    def share(self, source: int, target: int, start: int = -1, end: int = -1) -> None:
        """Let `target` see `source`'s cells too. Pool layout only: in lanes llama.cpp defers it."""
        ll.llama_memory_seq_cp(self._cells(), source, target, start, end)

    def clear(self) -> None:
        """Remove every cell of every sequence."""
        ll.llama_memory_clear(self._cells(), False)  # noqa: FBT003 - native signature

    def _cells(self) -> int:
        _ = self.handle.pointer
        if self._memory is None:
            raise NativeError("this context keeps no cells")
        return self._memory

    # ---- settings -----------------------------------------------------------------------------

    def set_adapters(self, adapters: list[tuple[Handle, float]]) -> None:
        """Replace the attached set: (adapter, scale) each. What is attached is not freed."""
        count = len(adapters)
        pointers = (ll.llama_adapter_lora_p_ctypes * max(count, 1))(
            *[adapter.pointer for adapter, _ in adapters]
        )
        scales = (ctypes.c_float * max(count, 1))(*[scale for _, scale in adapters])
        code = ll.llama_set_adapters_lora(self.handle.pointer, pointers, count, scales)
        if code:
            raise NativeError(f"llama.cpp refused the adapters (code {code})")
        self.handle.attach([adapter for adapter, _ in adapters])

    # ---- state --------------------------------------------------------------------------------

    def state_size(self, seq_id: int, flags: int = 0) -> int:
        """Bytes of the sequence's state blob."""
        return int(ll.llama_state_seq_get_size_ext(self.handle.pointer, seq_id, flags))

    def read_state(self, seq_id: int, buffer: np.ndarray, flags: int = 0) -> int:
        """Write the state blob into `buffer` (uint8, large enough); returns its length."""
        return int(
            ll.llama_state_seq_get_data_ext(
                self.handle.pointer, _bytes(buffer), buffer.nbytes, seq_id, flags
            )
        )

    def write_state(self, seq_id: int, blob: np.ndarray, flags: int = 0) -> int:
        """Replace the sequence by `blob`; returns the bytes consumed, 0 when refused."""
        return int(
            ll.llama_state_seq_set_data_ext(
                self.handle.pointer, _bytes(blob), blob.nbytes, seq_id, flags
            )
        )


def _view(address: int, count: int) -> np.ndarray:
    view = np.frombuffer(memoryview((ctypes.c_float * count).from_address(address)), np.float32)
    view.flags.writeable = False
    return view


def _bytes(array: np.ndarray) -> Any:  # noqa: ANN401 - a ctypes pointer
    return ctypes.cast(array.ctypes.data, ctypes.POINTER(ctypes.c_uint8))


def default_threads() -> int:
    """One per core that the scheduler lets this process run on."""
    return (
        max(1, len(os.sched_getaffinity(0)))
        if hasattr(os, "sched_getaffinity")
        else (os.cpu_count() or 1)
    )


def _resolve(model: Model, options: ContextOptions) -> ContextOptions:
    """Fill in what was left to the model and the machine."""
    length = options.context_length or model.trained_context
    if length < 1:
        raise InvalidRequest("the file names no context length; give one")
    positions = _learned_positions(model)
    if positions is not None and length > positions:  # llama.cpp would abort at the next one
        raise InvalidRequest(
            f"this model knows {positions} positions; a context of {length} is too long for it"
        )
    lanes = 1 if options.layout == "pool" else options.num_sequences
    if length * lanes >= _MAX_CELLS:
        raise InvalidRequest(
            f"{lanes} sequences of {length} tokens are more cells than llama.cpp can number; ask"
            " for a shorter context (--ctx-size) or fewer sequences"
        )
    if length * lanes < options.num_sequences:  # llama.cpp would end the process
        raise InvalidRequest(
            f"a pool of {length} tokens is too small for {options.num_sequences} sequences; give"
            " each at least one"
        )
    batch = max(min(options.batch_size, length), options.num_sequences)
    return replace(
        options,
        context_length=length,
        batch_size=batch,
        micro_batch_size=min(options.micro_batch_size, batch),
        threads=options.threads or default_threads(),
    )


def _learned_positions(model: Model) -> int | None:
    """How many positions the file has a vector for; None: they are computed, without an end."""
    for tensor in model.header.tensors:
        if tensor.name == "position_embd.weight":
            return tensor.shape[-1]
    return None


def _create(model: Model, options: ContextOptions, deadline: Deadline) -> Handle:
    with library.captured_errors() as lines:
        pointer = ll.llama_init_from_model(model.handle.pointer, _params(options))
    if not pointer:
        reason = library.explain(lines)
        kind = OutOfMemory if "alloc" in reason or "memory" in reason else LoadFailed
        raise kind(
            f"llama.cpp could not make a context of {options.context_length} tokens x"
            f" {options.num_sequences} sequences: {reason}; try a smaller --ctx-size"
        )
    ll.llama_set_abort_callback(pointer, ABORT_CALLBACK, deadline.address)
    free = functools.partial(_free, deadline)
    return Handle(pointer, free, "context", parent=model.handle, borrowed=deadline)


def _free(deadline: Deadline, pointer: int) -> None:
    deadline.stop()
    ll.llama_free(pointer)


def _params(options: ContextOptions) -> Any:  # noqa: ANN401 - a ctypes struct
    pool = options.layout == "pool"
    params = ll.llama_context_default_params()
    params.n_ctx = options.context_length * (1 if pool else options.num_sequences)
    params.n_batch = options.batch_size
    params.n_ubatch = options.micro_batch_size
    params.n_seq_max = options.num_sequences
    params.n_threads = params.n_threads_batch = options.threads
    params.kv_unified = pool
    params.flash_attn_type = _FLASH[options.flash_attention]
    params.type_k, params.type_v = KV_TYPES[options.type_k], KV_TYPES[options.type_v]
    params.offload_kqv = options.offload_kv
    params.swa_full = options.full_window
    params.rope_freq_base = options.rope_freq_base
    params.rope_freq_scale = options.rope_freq_scale
    params.embeddings = options.embeddings
    params.pooling_type = -1 if options.pooling is None else POOLING[options.pooling]
    params.no_perf = True
    return params
