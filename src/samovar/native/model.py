"""One GGUF file in memory: its weights, metadata and vocabulary."""

from __future__ import annotations

import ctypes
import hashlib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import llama_cpp.llama_cpp as ll

from samovar import gguf
from samovar.errors import InvalidRequest, LoadFailed
from samovar.native import library, memory, probe
from samovar.native.handle import Handle
from samovar.native.vocabulary import Vocabulary

logger = logging.getLogger(__name__)

_SPLIT_MODES = {"none": 0, "layer": 1, "row": 2, "tensor": 3}
_ALL_LAYERS = -1
# Architectures whose windows do not slide but begin anew; llama.cpp has no call that tells.
_CHUNKED = ("llama4",)
_SAMPLED_PAGES, _PAGE_BYTES = 256, 4096


@dataclass(frozen=True, slots=True)
class ModelOptions:
    """How to load a file. The defaults are llama.cpp's own; memory is checked first."""

    gpu_layers: int = _ALL_LAYERS
    """How many layers go to a GPU where there is one; negative: all."""
    main_gpu: int = 0
    split_mode: str = "layer"
    tensor_split: tuple[float, ...] = ()
    use_mmap: bool = True
    use_mlock: bool = False
    vocab_only: bool = False
    without_weights: bool = False
    """Read everything but the weights: enough to ask questions, not to compute."""
    extra_buffers: bool | None = None
    """Repacked and AMX weights; None: if the probe of the library says that they work here."""
    check_memory: bool = True
    """Refuse what does not fit into the memory that is free now."""
    on_progress: Callable[[float], None] | None = None
    """Told how much of the weights is loaded, 0 to 1, on the thread that loads. Must not raise."""

    def __post_init__(self) -> None:
        if self.split_mode not in _SPLIT_MODES:
            raise InvalidRequest(f"split_mode must be one of {', '.join(_SPLIT_MODES)}")
        if len(self.tensor_split) > int(ll.LLAMA_MAX_DEVICES):
            raise InvalidRequest(f"tensor_split has more than {ll.LLAMA_MAX_DEVICES} entries")
        if self.main_gpu < 0:
            raise InvalidRequest("main_gpu must be 0 or more")


class Model:
    """A loaded file. Contexts and adapters keep it alive: closing it waits for them.

    Raises ModelNotFound, MalformedGGUF, UnsupportedModel, OutOfMemory or LoadFailed.
    """

    def __init__(self, path: str | Path, options: ModelOptions | None = None) -> None:
        self.path = Path(path)
        self.options = options or ModelOptions()
        self.header = gguf.read_header(self.path)
        vocab_only = self.options.vocab_only
        is_checked = self.options.check_memory and not (vocab_only or self.options.without_weights)
        (gguf.check_vocabulary if vocab_only else gguf.check)(self.header)
        if is_checked:
            memory.check_weights(self.header)
        library.start()
        free = memory.available_bytes() if is_checked else None
        self.handle = _load(self.path, self.options)
        self.handle.watch(self)
        self.fingerprint = _fingerprint(self.header)
        """32 bytes that tell this file from others of the same shape.

        SHA-256 over the header and 256 pages spread evenly over the weights of each part:
        milliseconds for any size. Not a proof that every byte is the same; a full digest is. Taken
        now, because another file may have this path later.
        """
        self.mapped_bytes = 0 if free is None else self._mapped_bytes(free)
        """Weights that live in the page cache: the kernel counts what they take as free."""
        self.vocabulary = Vocabulary(self.handle, owner=self)

    def close(self) -> None:
        """Free the weights, now or when the last context and adapter are closed. Idempotent."""
        self.handle.close()

    def _mapped_bytes(self, free_before: int) -> int:
        """The weights, less what loading them took for good: llama.cpp may have repacked some."""
        on_gpu = self.options.gpu_layers != 0 and library.describe().supports_gpu
        if not self.options.use_mmap or self.options.use_mlock or on_gpu:
            return 0
        taken = free_before - (memory.available_bytes() or 0)
        return max(0, gguf.weights_bytes(self.header) - max(0, taken))

    @property
    def description(self) -> str:
        """llama.cpp's one-line description, such as `qwen2 1.5B Q8_0`."""
        buffer = ctypes.create_string_buffer(256)
        ll.llama_model_desc(self.handle.pointer, buffer, len(buffer))
        return buffer.value.decode("utf-8", "replace")

    @property
    def trained_context(self) -> int:
        """How many tokens the model was trained to see at once."""
        return int(ll.llama_model_n_ctx_train(self.handle.pointer))

    @property
    def embedding_width(self) -> int:
        """Floats in one output embedding."""
        return int(ll.llama_model_n_embd_out(self.handle.pointer))

    @property
    def is_recurrent(self) -> bool:
        """Whether all of its memory is recurrent state."""
        return bool(ll.llama_model_is_recurrent(self.handle.pointer))

    @property
    def is_hybrid(self) -> bool:
        """Whether it keeps attention cells and recurrent state."""
        return bool(ll.llama_model_is_hybrid(self.handle.pointer))

    @property
    def window(self) -> int:
        """Tokens that its sliding-window layers see; 0: it has none."""
        return int(ll.llama_model_n_swa(self.handle.pointer))

    def horizon(self, position: int) -> int:
        """The first position that the token at `position` looks at, in the layers that see least.

        Recurrent layers, which look at all before it in one state, do not count.
        """
        window = self.window
        if not window:
            return 0
        if self.header.architecture in _CHUNKED:
            return position // window * window
        return max(0, position - window + 1)

    @property
    def chat_template(self) -> str | None:
        """The Jinja source that the file carries."""
        source: bytes | None = ll.llama_model_chat_template(self.handle.pointer, None)
        return source.decode("utf-8", "replace") if source else None


def _load(path: Path, options: ModelOptions) -> Handle:
    params = ll.llama_model_default_params()
    params.n_gpu_layers = options.gpu_layers
    params.main_gpu = options.main_gpu
    params.split_mode = _SPLIT_MODES[options.split_mode]
    params.load_mode = _load_mode(options)
    params.vocab_only = options.vocab_only
    params.no_alloc = options.without_weights
    params.use_extra_bufts = _extra_buffers(options)
    split = _tensor_split(options.tensor_split)
    if split is not None:
        params.tensor_split = split
    told = options.on_progress
    # Kept until the call returns: nobody else holds it, and llama.cpp calls it.
    callback = ll.llama_progress_callback(lambda share, _: told is None or _tell(told, share))
    params.progress_callback = callback
    with library.captured_errors() as lines:
        pointer = ll.llama_model_load_from_file(bytes(path), params)
    if not pointer:
        raise LoadFailed(f"llama.cpp could not load {path.name}: {library.explain(lines)}")
    return Handle(pointer, ll.llama_model_free, "model", borrowed=split)


def _tell(told: Callable[[float], None], share: float) -> bool:
    """Loading goes on, whatever comes of telling."""
    told(min(1.0, max(0.0, share)))
    return True


def _load_mode(options: ModelOptions) -> int:
    if options.without_weights:
        return int(ll.LLAMA_LOAD_MODE_NONE)
    modes = {
        (True, False): ll.LLAMA_LOAD_MODE_MMAP,
        (True, True): ll.LLAMA_LOAD_MODE_MMAP_MLOCK,
        (False, True): ll.LLAMA_LOAD_MODE_MLOCK,
        (False, False): ll.LLAMA_LOAD_MODE_NONE,
    }
    return int(modes[options.use_mmap, options.use_mlock])


def _extra_buffers(options: ModelOptions) -> bool:
    if options.extra_buffers is not None:
        return options.extra_buffers
    if options.without_weights:
        return False
    return options.vocab_only or probe.extra_buffers_are_safe()


def _tensor_split(shares: tuple[float, ...]) -> ctypes.Array[ctypes.c_float] | None:
    if not shares:
        return None
    array = (ctypes.c_float * int(ll.LLAMA_MAX_DEVICES))()
    array[: len(shares)] = list(shares)
    return array


def _fingerprint(header: gguf.Header) -> bytes:
    """Raises LoadFailed unless the files are still those that were judged, and so those loaded."""
    digest = hashlib.sha256()
    for part in header.parts:
        *_, size, changed = part.identity
        try:
            _sample_pages(digest, part)
            found = part.path.stat()
        except OSError as error:
            raise LoadFailed(f"{part.path.name} went away while it was loaded") from error
        if (found.st_size, found.st_mtime_ns) != (size, changed):
            raise LoadFailed(f"{part.path.name} was changed while it was loaded; load it again")
    return digest.digest()


def _sample_pages(digest: hashlib._Hash, part: gguf.Part) -> None:
    digest.update(part.file_size.to_bytes(8, "little"))
    with part.path.open("rb") as file:
        digest.update(file.read(part.data_offset))
        stride = max(_PAGE_BYTES, (part.file_size - part.data_offset) // _SAMPLED_PAGES)
        for offset in range(part.data_offset, part.file_size, stride):
            file.seek(offset)
            digest.update(file.read(_PAGE_BYTES))
