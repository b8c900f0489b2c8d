"""Real clients against the real public registry, through a proxy that runs as users run it."""
