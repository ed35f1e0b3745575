"""The control plane: stores goal state, reconciles, publishes."""
