"""From the name of a source to its rows: files, TensorFlow Datasets, the Hugging Face Hub, packages."""

from jaxtune.data.sources.opening import KINDS, Source, find_source, open_source

__all__ = ["KINDS", "Source", "find_source", "open_source"]
