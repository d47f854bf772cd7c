"""Makes GGUF files to test and measure with: models, LoRA adapters and vocabularies of noise.

For development only. It needs the gguf and numpy packages.
"""

from modelmaker.adapter import build_adapter
from modelmaker.model import KINDS, POOLINGS, build_model
from modelmaker.quantization import QUANTIZATIONS
from modelmaker.shape import SHAPES
from modelmaker.vocabulary_file import build_vocab_only

__all__ = [
    "KINDS",
    "POOLINGS",
    "QUANTIZATIONS",
    "SHAPES",
    "build_adapter",
    "build_model",
    "build_vocab_only",
]
