"""An epoch of a chain of Dense and ReLU in three kernels of our own, on a GPU: `batch.py` asks for them.

Each layer's activations stay in registers, forward and back, and the products are the tensor cores'. The formulas are
those of the layers, losses and optimizers, read once (`formulas.py`); what else a kernel does is in `kernels.cu`.
"""
