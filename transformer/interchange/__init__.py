"""Weights of other libraries, both ways: Hugging Face, PyTorch, TensorFlow, GGUF."""
