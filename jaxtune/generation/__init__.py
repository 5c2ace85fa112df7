"""Text from models: greedy, sampling and beam search over a key/value cache."""
