"""A neural network from scratch, trained full batch on Fashion-MNIST, on NumPy or CuPy.

What `public.py` has comes when it is first asked for: the command is there at once, and a Ctrl-C with it.
"""

from importlib import import_module

TYPE_CHECKING = False  # as of `typing`, which takes its time
if TYPE_CHECKING:
    from fmnist_xp.public import *  # noqa: F403
else:

    def __getattr__(name):
        """Return a module of the package, such as `nn`, or else what `public.py` has under `name`."""
        if name.startswith("_") and name not in ("__all__", "__version__"):
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        try:
            return import_module(f"{__name__}.{name}")
        except ModuleNotFoundError as error:
            if error.name != f"{__name__}.{name}":
                raise
        globals()[name] = getattr(import_module(f"{__name__}.public"), name)
        return globals()[name]

    def __dir__():
        """Return what is here and what comes when asked for."""
        return sorted({*globals(), *import_module(f"{__name__}.public").__all__})
