"""Looking after what is held: the invariants of the store and the index, checked and mended."""
