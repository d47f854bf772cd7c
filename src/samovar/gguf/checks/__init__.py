"""Refuses files that llama.cpp would not survive, or that say what cannot be true.

The checks run from the outside in, so that each may rely on those before it: what kind of file
it is, where its tensors lie, the numbers that shape the model, the tensors of each layer, the
tokenizer. Where a check exists because llama.cpp ends the process, a comment names the place in
the llama.cpp that llama-cpp-python 0.3.36 carries.
"""

from samovar.gguf.checks.adapter import check_adapter
from samovar.gguf.checks.kind import check_architecture, check_kind
from samovar.gguf.checks.layers import check_layers
from samovar.gguf.checks.layout import check_layout
from samovar.gguf.checks.output import check_output
from samovar.gguf.checks.shape import check_shape
from samovar.gguf.checks.tokenizer import check_tokenizer
from samovar.gguf.header import Header

__all__ = ["check", "check_adapter", "check_vocabulary"]


def check(header: Header) -> None:
    """Decides whether a file may be handed to llama.cpp as a model.

    Raises MalformedGGUF (damaged, or says what cannot be true) or UnsupportedModel (a valid file
    that this build cannot serve); ModelNotFound if the file has gone since its header was read.
    Takes about 0.1 s for a vocabulary of 128,000 tokens: every token is compared with the others.
    """
    check_kind(header)
    check_layout(header)
    check_shape(header)
    check_layers(header)
    check_output(header)
    check_tokenizer(header)


def check_vocabulary(header: Header) -> None:
    """Decides whether a file may be handed to llama.cpp for its vocabulary alone.

    Raises as `check` does, but asks nothing of the weights: there need not be any.
    """
    check_architecture(header)
    check_layout(header)
    check_tokenizer(header)
