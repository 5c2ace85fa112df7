"""TFDS builders that come with jaxtune."""
