"""One file per family: a configuration class, a name map, and layers where they differ from the shared ones."""
