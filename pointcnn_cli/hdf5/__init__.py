"""Rows of four-channel point-cloud sequences in HDF5: the layout, reading, writing, looking."""

import os

# HDF5 loads every shared library that it finds in HDF5_PLUGIN_PATH, which runs their code. This value switches plugins
# off; the library reads it once, when h5py is first imported: so here, before any module of this package imports h5py.
os.environ["HDF5_PLUGIN_PRELOAD"] = "::"
