"""Tensors in files, whatever their format: safetensors, Flax msgpack, GGUF."""
