"""The engine: losses, targets, objective, optimizers, and the painter that runs them."""
