"""Backup and restore: the whole cache as one tar file, copied while serving."""
