"""The subcommands of `codi-patching`, one a file."""
