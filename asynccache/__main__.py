"""`python -m asynccache`: the same as `asynccache`."""

from asynccache.cli import main

if __name__ == "__main__":
    main()
