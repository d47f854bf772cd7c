"""Export: python -m training.export CHECKPOINT OUT.gguf [--quant f16|q8_0]."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from gguf import GGMLQuantizationType, GGUFWriter, LlamaFileType, TokenType
from gguf.quants import quantize
from tokenizers import Tokenizer

from training import checkpoint, vocabulary
from training.corpus.document import DIVIDER, END, TEMPLATE_PATH
from training.layout import Weights, to_file
from training.model import Decoder

NAME = "samovar-mini"
QUANTS = {
    "f32": (GGMLQuantizationType.F32, LlamaFileType.ALL_F32),
    "f16": (GGMLQuantizationType.F16, LlamaFileType.MOSTLY_F16),
    "q8_0": (GGMLQuantizationType.Q8_0, LlamaFileType.MOSTLY_Q8_0),
}


def export(source: Path, target: Path, quant: str) -> None:
    """Write the model of a checkpoint as GGUF, under another name until it is whole."""
    model, tokenizer = checkpoint.model_of(checkpoint.load(source))
    part = target.with_name(f".{target.name}.part")
    writer = GGUFWriter(part, "llama")
    kind, file_type = QUANTS[quant]
    _describe(writer, model, file_type)
    _add_vocabulary(writer, tokenizer)
    for name, values in tensors(model).items():
        used = kind if values.ndim == 2 else GGMLQuantizationType.F32
        writer.add_tensor(name, quantize(values, used), raw_dtype=used)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    part.replace(target)


def tensors(model: Decoder) -> Weights:
    """The weights under the names of a model file."""
    weights = {name: weight.numpy() for name, weight in model.state_dict().items()}
    return to_file(weights, model.shape)


def _describe(writer: GGUFWriter, model: Decoder, file_type: LlamaFileType) -> None:
    shape = model.shape
    millions = sum(one.numel() for one in model.parameters()) / 1e6
    writer.add_type("model")
    writer.add_name(NAME)
    writer.add_basename(NAME)
    writer.add_size_label(f"{millions:.1f}M")
    writer.add_license("MIT")
    writer.add_languages(["en"])
    writer.add_description("A very small model of simple English, for first steps and for tests.")
    writer.add_file_type(file_type)
    writer.add_quantization_version(2)
    writer.add_context_length(shape.context)
    writer.add_embedding_length(shape.width)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(shape.feed_forward)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_rope_dimension_count(shape.head_width)
    writer.add_rope_freq_base(shape.rope_base)
    writer.add_layer_norm_rms_eps(shape.epsilon)
    writer.add_vocab_size(shape.vocabulary)


def _add_vocabulary(writer: GGUFWriter, tokenizer: Tokenizer) -> None:
    ids = tokenizer.get_vocab(with_added_tokens=True)
    texts = sorted(ids, key=lambda text: ids[text])
    kinds = dict.fromkeys(vocabulary.CONTROL, TokenType.CONTROL)
    kinds |= dict.fromkeys(vocabulary.MARKS, TokenType.USER_DEFINED)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(vocabulary.PRE)
    writer.add_token_list(texts)
    writer.add_token_types([kinds.get(text, TokenType.NORMAL) for text in texts])
    writer.add_token_merges(vocabulary.merges(tokenizer))
    writer.add_bos_token_id(ids[DIVIDER])
    writer.add_eos_token_id(ids[END])
    writer.add_eot_token_id(ids[END])
    writer.add_pad_token_id(ids[DIVIDER])
    writer.add_add_bos_token(False)  # noqa: FBT003 (the package's own signature)
    writer.add_chat_template(TEMPLATE_PATH.read_text(encoding="utf-8"))


def main() -> None:
    """Export as the command line says."""
    parser = argparse.ArgumentParser(prog="training.export", description=export.__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--quant", choices=QUANTS, default="f16")
    given = parser.parse_args()
    export(given.checkpoint, given.out, given.quant)
    sys.stdout.write(f"{given.out} {given.out.stat().st_size:,} bytes\n")


if __name__ == "__main__":
    main()
