"""pointcnn: 3D-CNN classification of four-channel point-cloud sequences, with validation that cannot deceive."""

__version__ = "0.1.0"
