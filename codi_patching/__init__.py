"""Where in a CODI model's latent thoughts is the answer made? Activation patching on Lightning."""
