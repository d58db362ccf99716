"""From a `Report` to what people read: page, figures, documents, console, trackers."""
