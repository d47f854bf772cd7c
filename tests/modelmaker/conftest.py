"""llama.cpp through its C functions, for trying the files that modelmaker writes."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Self

import numpy as np
import pytest
from numpy.typing import NDArray

from modelmaker import build_model

Numbers = NDArray[np.float32]
Pointer = Any
"""A pointer to something of llama.cpp's."""

_YES = True

_SETTINGS = {"n_ctx": 512, "n_batch": 512, "n_ubatch": 512, "n_threads": 1, "n_threads_batch": 1}


class Runner:
    """One model in llama.cpp with one context; sequences of tokens go in, logits come out."""

    def __init__(self, native: ModuleType, path: Path, options: dict[str, Any]) -> None:
        self.native = native
        parameters = native.llama_model_default_params()
        parameters.vocab_only = options.pop("vocab_only", False)
        self.model = native.llama_model_load_from_file(str(path).encode(), parameters)
        assert self.model, f"llama.cpp does not load {path}"
        self.vocab = native.llama_model_get_vocab(self.model)
        self.size = int(native.llama_vocab_n_tokens(self.vocab))
        self.context = None if parameters.vocab_only else self._context(options)

    def _context(self, options: dict[str, Any]) -> Pointer:
        parameters = self.native.llama_context_default_params()
        for key, value in (_SETTINGS | options).items():
            setattr(parameters, key, value)
        context = self.native.llama_init_from_model(self.model, parameters)
        assert context, "llama.cpp makes no context"
        return context

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        if self.context:
            self.native.llama_free(self.context)
        self.native.llama_model_free(self.model)

    def tokens(self, text: str, *, special: bool = False, named: bool = False) -> list[int]:
        """The text as tokens; `named` adds the tokens that begin and end a sequence."""
        raw = text.encode()
        found = (self.native.llama_token * (len(raw) + 8))()
        number = self.native.llama_tokenize(
            self.vocab, raw, len(raw), found, len(found), named, special
        )
        assert number >= 0
        return list(found[:number])

    def text(self, tokens: Sequence[int]) -> bytes:
        """The bytes of the tokens, one after the other, special ones included."""
        pieces = []
        for token in tokens:
            room = ctypes.create_string_buffer(256)
            length = self.native.llama_token_to_piece(self.vocab, token, room, len(room), 0, _YES)
            assert length >= 0
            pieces.append(room.raw[:length])
        return b"".join(pieces)

    def ends(self, token: int) -> bool:
        """Whether a text ends with the token."""
        return bool(self.native.llama_vocab_is_eog(self.vocab, token))

    def clear(self) -> None:
        """Forget all tokens."""
        memory = self.native.llama_get_memory(self.context)
        if memory:
            self.native.llama_memory_clear(memory, _YES)

    def feed(self, tokens: Sequence[int]) -> None:
        """Continue with these tokens."""
        array = (self.native.llama_token * len(tokens))(*tokens)
        batch = self.native.llama_batch_get_one(array, len(tokens))
        assert self.native.llama_decode(self.context, batch) == 0

    def decode(self, tokens: Sequence[int]) -> Numbers:
        """Continue with these tokens; the logits after the last one."""
        self.feed(tokens)
        found = self.native.llama_get_logits_ith(self.context, -1)
        return np.ctypeslib.as_array(found, (self.size,)).copy()

    def fresh(self, tokens: Sequence[int]) -> Numbers:
        """The logits after these tokens alone."""
        self.clear()
        return self.decode(tokens)

    def greedy(self, prompt: Sequence[int], length: int) -> tuple[list[int], list[Numbers]]:
        """The likeliest continuation from an empty context, and the logits at each step."""
        logits = [self.fresh(prompt)]
        tokens = [int(logits[-1].argmax())]
        while len(tokens) < length:
            logits.append(self.decode(tokens[-1:]))
            tokens.append(int(logits[-1].argmax()))
        return tokens, logits

    def embedding(self, text: str) -> Numbers:
        """The pooled embedding of the text, with length 1."""
        self.clear()
        self.feed(self.tokens(text, named=True))
        found = self.native.llama_get_embeddings_seq(self.context, 0)
        width = self.native.llama_model_n_embd(self.model)
        vector = np.ctypeslib.as_array(found, (width,)).copy()
        return np.asarray(vector / np.linalg.norm(vector), np.float32)

    def adapter(self, path: Path) -> Pointer:
        """Load the LoRA adapter and use it in full."""
        adapter = self.native.llama_adapter_lora_init(self.model, str(path).encode())
        assert adapter, f"llama.cpp does not load {path}"
        self.use(adapter, 1.0)
        return adapter

    def use(self, adapter: Pointer, scale: float) -> None:
        """Use this adapter, and no other, at that scale."""
        adapters = (self.native.llama_adapter_lora_p_ctypes * 1)(adapter)
        scales = (ctypes.c_float * 1)(scale)
        assert self.native.llama_set_adapters_lora(self.context, adapters, 1, scales) == 0


@pytest.fixture(scope="session")
def native() -> ModuleType:
    """The C functions of llama.cpp, with its log switched off."""
    module = pytest.importorskip("llama_cpp.llama_cpp")

    def ignore(_level: int, _text: bytes, _data: ctypes.c_void_p) -> None:
        """Keep standard error for what matters to the tests."""

    # llama.cpp keeps the address only, so the object has to live as long as the module.
    module.kept_log_callback = module.llama_log_callback(ignore)
    module.llama_log_set(module.kept_log_callback, ctypes.c_void_p(0))
    module.llama_backend_init()
    assert isinstance(module, ModuleType)
    return module


@pytest.fixture(scope="session")
def load(native: ModuleType) -> Callable[..., Runner]:
    """Loads a model: load(path, n_ctx=...)."""

    def loaded(path: Path, **options: int | bool) -> Runner:
        return Runner(native, path, dict(options))

    return loaded


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Makes a model, once for the same arguments: made("llama", quant="Q8_0")."""
    folder = tmp_path_factory.mktemp("made")
    known: dict[str, Path] = {}

    def build(kind: str, **options: str | float | Path) -> Path:
        key = repr((kind, sorted(options.items())))
        if key not in known:
            path = folder / f"{len(known)}.gguf"
            known[key] = build_model(path, kind, **options)  # type: ignore[arg-type]
        return known[key]

    return build


@pytest.fixture(scope="session")
def real_vocabulary() -> Callable[[str], Path]:
    """The path of a real vocabulary, where the folder beside the checkout has it."""
    folder = Path(__file__).parents[2].parent / "shared" / "vocab"

    def path(name: str) -> Path:
        found = folder / f"ggml-vocab-{name}.gguf"
        if not found.exists():
            pytest.skip(f"no vocabulary {name} here")
        return found

    return path
