"""Repositories that take pushes and serve them: a registry of containers and other artifacts.

OCI distribution specification 1.1, over the engine and the ports.
"""
