"""A LoRA adapter: a small file that changes what a model says."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence
from pathlib import Path

import llama_cpp.llama_cpp as ll

from samovar import gguf
from samovar.errors import AdapterRejected, MalformedGGUF, UnsupportedModel
from samovar.native import library
from samovar.native.handle import Handle
from samovar.native.model import Model


class LoraAdapter:
    """An adapter loaded for one model. It keeps that model alive until it is closed.

    Raises ModelNotFound for a missing file and AdapterRejected for one that is damaged, is no
    adapter, or was made for another model.
    """

    def __init__(self, model: Model, path: str | Path) -> None:
        self.path = Path(path)
        self.model = model
        self._check()
        with library.captured_errors() as lines:
            pointer = ll.llama_adapter_lora_init(model.handle.pointer, bytes(self.path))
        if not pointer:
            raise AdapterRejected(f"llama.cpp refused {self.path.name}: {library.explain(lines)}")
        self.handle = Handle(pointer, ll.llama_adapter_lora_free, "adapter", parent=model.handle)
        self.handle.watch(self)
        with self.path.open("rb") as file:
            self.fingerprint = hashlib.file_digest(file, "sha256").digest()
        """SHA-256 of the file."""

    def close(self) -> None:
        """Free it. Idempotent. It must not be attached any more."""
        self.handle.close()

    def _check(self) -> None:
        try:
            header = gguf.read_header(self.path)
        except (MalformedGGUF, UnsupportedModel) as error:
            raise AdapterRejected(str(error)) from error
        gguf.check_adapter(header, self.model.header)


def digest(adapters: Sequence[tuple[LoraAdapter, float]]) -> bytes:
    """SHA-256 over a set of adapters and their scales, in order: it decides what is computed."""
    found = hashlib.sha256()
    for adapter, scale in adapters:
        found.update(adapter.fingerprint + struct.pack("<d", scale))
    return found.digest()
