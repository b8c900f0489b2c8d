"""The corridor of a request and the one verified ingest. Knows ports, rules and providers only."""
