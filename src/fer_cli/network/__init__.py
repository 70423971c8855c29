"""The feedforward and the feedback network: geometry, layers, data, training, `model.h5`."""
