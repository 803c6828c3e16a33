"""Training in plain PyTorch, for one process or several, without Ray."""
