"""The attack corpus: one data file an entry, in a folder a part, and the tests that play them."""
