"""From files to a model: strictly, or not at all. One file a layout; `known` is the table."""
