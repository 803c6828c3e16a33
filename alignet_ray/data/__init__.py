"""Embeddings as arrays, sampling of image triplets, and the file formats of other projects."""
