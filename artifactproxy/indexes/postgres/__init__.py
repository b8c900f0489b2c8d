"""Metadata in PostgreSQL."""
