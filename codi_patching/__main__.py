"""`python -m codi_patching` is `codi-patching`."""

from codi_patching.cli import main

if __name__ == "__main__":
    main()
