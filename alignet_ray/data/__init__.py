"""Embeddings as arrays, sampling of image triplets, formats of other projects, and the field's data sets."""
