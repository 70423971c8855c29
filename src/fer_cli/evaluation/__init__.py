"""Whether explanations are true: failure detection, repair, planted faults, sanity checks, the paper's claims."""
