"""The feedforward and the feedback network: geometry, layers, training, `model.h5`."""
