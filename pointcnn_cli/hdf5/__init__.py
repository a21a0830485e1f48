"""Rows of four-channel point-cloud sequences in HDF5: the layout, reading, writing, looking."""
