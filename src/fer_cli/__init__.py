"""fer explains how a 3D convolutional network recognises a shape, and why it fails.

A feedforward network on occupancy grids, a feedback network that reconstructs the input from any
of its layers, and k-means codebooks over the filter space of both, after FER-CNN ("Interpretation
of Deep CNN Recognition with Filter Space Clustering in Feature Extraction and Reconstruction",
CVPR Workshops 2018).
"""

__version__ = "0.1.0"
