"""From a name to files on this machine: downloads, archives, the cache."""
