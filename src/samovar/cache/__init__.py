"""Blocks of KV state, kept by the exact tokens before them. Knows bytes, not llama.cpp."""
