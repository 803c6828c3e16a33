"""Evaluations: each turns embeddings into tidy scores."""
