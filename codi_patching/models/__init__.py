"""CODI models: encode, think, read out; loading and saving."""
