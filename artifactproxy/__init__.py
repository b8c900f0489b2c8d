"""A caching, verifying pull-through proxy between package clients and registries."""

__version__ = "0.1.0"
