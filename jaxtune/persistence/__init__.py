"""What a run writes down and reads back: its directory, checkpoints with manifests, metrics, provenance."""
