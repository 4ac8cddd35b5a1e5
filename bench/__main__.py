"""`python -m bench`."""

from bench import kernels

if __name__ == "__main__":
    kernels.leave_to_blas()
    from bench.commands import app  # only now: it loads NumPy, whose BLAS reads the environment once

    app(prog_name="python -m bench")
