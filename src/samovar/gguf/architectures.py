"""The architectures that this build of llama.cpp runs, and how they differ.

From the llama.cpp that llama-cpp-python 0.3.36 carries: the names from `LLM_ARCH_NAMES` in
src/llama-arch.cpp as far as `llama_model_mapping` in src/llama-model.cpp has a class for them,
the rest from where each table says.
"""

from __future__ import annotations


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Everything `llama_model_create` accepts.
KNOWN = _names(
    """
    afmoe apertus arcee arctic arwkv7 baichuan bailingmoe bailingmoe2 bailingmoe3 bert
    bitnet bloom chameleon chatglm codeshell cogvlm cohere2 cohere2moe command-r dbrx
    deci deepseek deepseek2 deepseek2-ocr deepseek32 deepseek4 dflash dots1 dots3note
    dream eagle3 ernie4_5 ernie4_5-moe eurobert exaone exaone-moe exaone4 falcon
    falcon-h1 gemma gemma-embedding gemma2 gemma3 gemma3n gemma4 gemma4-assistant
    glm-dsa glm4 glm4moe glm5-next gpt-oss gpt2 gptneox granite granite_swa
    granitehybrid granitemoe graniteswitch grok grovemoe hrm_text hunyuan-dense
    hunyuan-moe hunyuan_vl hy_v3 hy_v4 internlm2 jais jais2 jamba jina-bert-v2
    jina-bert-v3 kimi-k3 kimi-linear laguna lfm2 lfm2moe llada llada-moe llama
    llama-embed llama4 maincoder mamba mamba2 maple mellum mimo2 minicpm minicpm3
    minimax-01 minimax-m2 minimax-m3 mistral3 mistral4 modern-bert mpt muse-glimmer
    nanbeige nemotron nemotron_h nemotron_h_moe neo-bert nomic-bert nomic-bert-moe olmo
    olmo2 olmoe openelm orion paddleocr pangu-embedded phi2 phi3 phimoe plamo plamo2
    plamo3 plm pockettts qwen qwen2 qwen2moe qwen2vl qwen3 qwen35 qwen35moe qwen3moe
    qwen3next qwen3tts qwen3vl qwen3vlmoe qwen4exp refact rnd1 rwkv6 rwkv6qwen2 rwkv7
    seed_oss smallthinker smollm3 spark2_5 stablelm starcoder starcoder2 step35 t5
    t5encoder talkie wavtokenizer-dec xverse
    """
)

# `llm_arch_is_recurrent`, src/llama-arch.cpp: no attention at all.
RECURRENT = _names("arwkv7 mamba mamba2 rwkv6 rwkv6qwen2 rwkv7")

# `llm_arch_is_hybrid`, src/llama-arch.cpp: attention and recurrent layers.
HYBRID = _names(
    """
    bailingmoe3 deepseek4 falcon-h1 glm5-next granitehybrid jamba kimi-k3 kimi-linear
    lfm2 lfm2moe minimax-01 nemotron_h nemotron_h_moe plamo2 qwen35 qwen35moe qwen3next
    qwen4exp
    """
)

# `llm_arch_is_diffusion`, src/llama-arch.cpp.
DIFFUSION = _names("dream llada llada-moe rnd1")

# `llama_model_has_encoder`, src/llama-model.cpp: two stacks, or the first of them alone.
ENCODER_DECODER = _names("t5 t5encoder")

# Guess ahead for another model, whose context they need (`ctx_other`, src/llama-context.cpp).
DRAFTS = _names("dflash eagle3 gemma4-assistant")

# Their graphs assert what no file can satisfy: src/models/plm.cpp hands `build_attn` values of
# two dimensions, where the KV cache takes three.
BROKEN = _names("plm")

# Make sound, not text.
SPEECH = _names("pockettts qwen3tts wavtokenizer-dec")

# No KV at all (`create_memory`, src/llama-model.cpp): every token sees every other.
ENCODERS = _names(
    """
    bert eurobert gemma-embedding jina-bert-v2 jina-bert-v3 modern-bert neo-bert
    nomic-bert nomic-bert-moe
    """
)

# Their graphs assert that the rotated part is the whole head (`n_embd_head == n_rot`,
# src/models/*.cpp).
ROTATES_WHOLE_HEADS = _names(
    """
    apertus arcee arctic baichuan chameleon codeshell cogvlm cohere2moe dbrx deci
    deepseek dots1 dream ernie4_5 ernie4_5-moe exaone exaone-moe exaone4 falcon granite
    granite_swa granitemoe graniteswitch grok grovemoe hunyuan-dense hunyuan-moe
    hunyuan_vl hy_v3 internlm2 jais2 llada llada-moe llama llama-embed llama4 maincoder
    mellum minicpm mistral3 olmo olmo2 olmoe orion paddleocr pangu-embedded plamo
    pockettts qwen2 qwen2moe qwen2vl qwen3 qwen3moe qwen3tts qwen3vl qwen3vlmoe rnd1
    seed_oss smallthinker smollm3 starcoder2 talkie xverse
    """
)

# All graphs but these assert that key and value heads have the same size
# (`n_embd_head == hparams.n_embd_head_k()`, src/models/*.cpp).
UNEQUAL_HEADS = _names(
    """
    arwkv7 bailingmoe bailingmoe3 deepseek2 deepseek2-ocr deepseek32 deepseek4 dots3note
    falcon-h1 gemma gemma-embedding gemma2 gemma3 gemma3n gemma4 gemma4-assistant
    glm-dsa glm5-next gpt-oss hrm_text hy_v4 jamba kimi-k3 kimi-linear lfm2 lfm2moe
    mamba mamba2 mimo2 minicpm3 mistral4 plamo2 plamo3 plm rwkv6 rwkv6qwen2 rwkv7 step35
    wavtokenizer-dec
    """
)
