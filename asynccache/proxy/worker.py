"""`python -m asynccache.proxy.worker`: one of the processes of `asynccache serve --workers`, which starts it."""

from asynccache.proxy.workers import main

if __name__ == "__main__":
    main()
