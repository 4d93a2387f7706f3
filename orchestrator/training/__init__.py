"""One trial in this process: the training of cpcnn_core tied to the records."""
