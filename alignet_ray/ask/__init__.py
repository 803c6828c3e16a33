"""Collects people's judgements of similarity in a browser: `alignet-ray ask IMAGES`."""
