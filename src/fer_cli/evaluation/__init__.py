"""A split → predictions, reconstructions, confidence scores, and how well these detect misclassification."""
