"""pointcnn: 3D-CNN classification of four-channel point-cloud sequences, with validation that cannot deceive."""

import os

__version__ = "0.1.0"

# HDF5 loads every shared library that it finds in HDF5_PLUGIN_PATH, which runs their code. This value switches plugins
# off; the library reads it once, when h5py is first imported: so here, before any module of ours can import h5py.
os.environ["HDF5_PLUGIN_PRELOAD"] = "::"
