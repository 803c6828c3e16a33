"""Pixels that come in: storage, listing, decoding, resizing, and the cache of training images."""
