"""Samovar runs GGUF models with llama.cpp and keeps prompts hot."""

__version__ = "0.1.0.dev0"
