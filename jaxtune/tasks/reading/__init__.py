"""From the columns of a row to token ids and label ids."""
