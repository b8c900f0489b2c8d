"""Tokens: who is believed, and for how long."""
