"""An epoch of a chain of Dense and ReLU in three kernels of our own, on a GPU: `batch.py` asks for them.

Activations stay in registers, and the products are the tensor cores'. The formulas are those of layers, losses and
optimizers, read as C; what else a kernel does is in `kernels.cu`.
"""
