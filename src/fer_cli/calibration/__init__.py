"""What validation samples say: temperatures, p-values, typicality, the usual course of the computation."""
