"""One sample explained: what its clusters stand for, where a wrong class comes in, whether a repair there undoes it."""
