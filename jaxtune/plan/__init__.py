"""Which mesh, before any accelerator is rented: the train step compiled for machines elsewhere."""
