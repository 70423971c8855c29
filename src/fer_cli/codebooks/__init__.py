"""k-means over the filter space at every location of every layer, and what samples are in its terms; `codebook.h5`."""
