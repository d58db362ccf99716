"""Where in a CODI model's latent thoughts is the answer made? Activation patching on Lightning.

In a notebook:

    import codi_patching as cp
    results = cp.load_results("results/position")
"""

from codi_patching.frames import Frames, load_results

__all__ = ["Frames", "load_results"]
