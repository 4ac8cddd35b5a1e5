"""Full-batch training: the engine, the epoch loop, what it logs and what it saves."""
