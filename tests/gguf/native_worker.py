"""Loads the files named on stdin with llama.cpp and uses each a little; one line of answer each.

A line is the path of a model; after a tab may follow that of an adapter, or the word `vocabulary`
if nothing but the vocabulary is to be loaded.

The answer is `loaded`, `refused` or `no context`. A file that ends this process, or hangs, is
found by the parent: it is the one that got no answer.
"""

from __future__ import annotations

import ctypes
import resource
import sys

import llama_cpp.llama_cpp as llama

# What an absurd file asks for fails here instead of on the machine.
MAX_ADDRESS_SPACE = 6 << 30
YES = True
TEXTS = ("\n", "hello world", bytes(range(1, 256)).decode("latin-1"), "\u4f60\u597d \U0001f600")


@llama.llama_log_callback
def silence(_level: int, _text: bytes, _data: ctypes.c_void_p) -> None:
    pass


def main() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MAX_ADDRESS_SPACE, MAX_ADDRESS_SPACE))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    llama.llama_log_set(silence, ctypes.c_void_p(0))
    llama.llama_backend_init()
    for line in sys.stdin:
        sys.stdout.write(use(*line.rstrip("\n").split("\t")) + "\n")
        sys.stdout.flush()


def use(path: str, adapter: str | None = None) -> str:
    params = llama.llama_model_default_params()
    params.vocab_only = adapter == "vocabulary"
    model = llama.llama_model_load_from_file(path.encode(), params)
    if not model:
        return "refused"
    if params.vocab_only:
        llama.llama_model_free(model)
        return "loaded"
    vocab = llama.llama_model_get_vocab(model)
    tokenize(vocab)
    lora = llama.llama_adapter_lora_init(model, adapter.encode()) if adapter else None
    if adapter and not lora:
        return "refused"
    answers = [decode(model, lora, embeddings=embeddings) for embeddings in (False, True)]
    llama.llama_model_free(model)
    return answers[0]


def tokenize(vocab: llama.llama_vocab_p) -> None:
    tokens = (llama.llama_token * 4096)()
    for text in TEXTS:
        raw = text.encode()
        llama.llama_tokenize(vocab, raw, len(raw), tokens, len(tokens), YES, YES)
    piece = ctypes.create_string_buffer(256)
    for token in range(llama.llama_vocab_n_tokens(vocab)):
        llama.llama_token_to_piece(vocab, token, piece, len(piece), 0, YES)
        llama.llama_vocab_is_eog(vocab, token)


def decode(
    model: llama.llama_model_p, lora: llama.llama_adapter_lora_p | None, *, embeddings: bool
) -> str:
    params = llama.llama_context_default_params()
    params.n_ctx, params.n_batch, params.n_ubatch = 64, 8, 8
    params.n_threads = params.n_threads_batch = 1
    params.embeddings = embeddings
    context = llama.llama_init_from_model(model, params)
    if not context:
        return "no context"
    if lora:
        adapters = (llama.llama_adapter_lora_p_ctypes * 1)(lora)
        llama.llama_set_adapters_lora(context, adapters, 1, (ctypes.c_float * 1)(1.0))
    for count in (2, 1):
        tokens = (llama.llama_token * count)(*range(count))
        llama.llama_decode(context, llama.llama_batch_get_one(tokens, count))
    llama.llama_free(context)
    return "loaded"


if __name__ == "__main__":
    main()
