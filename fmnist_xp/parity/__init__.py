"""Evidence that two devices compute the same: operation by operation, one step tensor by tensor, epoch by epoch."""
