"""State, step, loop, optimizers: everything that happens while a run trains, and the run as a whole."""
