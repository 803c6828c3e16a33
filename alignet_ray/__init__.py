"""alignet_ray: vision models that see similarity as people do."""

__version__ = "0.1.0"
