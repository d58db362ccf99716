"""The experiments and the training, as LightningModules."""
