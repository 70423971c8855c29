"""Are explanations true: repair, planted faults, sanity checks, the paper's claims; and `fer evaluate`."""
