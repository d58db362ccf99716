"""From files to a model: one file a layout."""
