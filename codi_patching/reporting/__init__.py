"""From results folders to what people read: figures, page, reports, console, loggers' tables."""
