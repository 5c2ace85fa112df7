"""What masked and denoising language models do to a text before it has to be told."""
