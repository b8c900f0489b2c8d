"""`artifactproxy fetch`: one file, by the engine of the proxy, into a file of the user's."""
