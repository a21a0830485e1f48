"""Bring data from elsewhere into the project's HDF5 layout: arrays (.npy, .npz, .mat), tables of points, text logs."""
