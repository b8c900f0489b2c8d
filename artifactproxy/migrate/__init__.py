"""Moving an instance from its data folder to a store and an index across the network."""
