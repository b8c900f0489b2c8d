"""Several processes of one cluster, in one: each with a socket of its own, over one store and one index."""
