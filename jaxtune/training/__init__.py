"""State, step, loop, optimizers, checkpoints: everything that happens while a run trains."""
