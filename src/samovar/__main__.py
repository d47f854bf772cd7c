"""Lets `python -m samovar` stand in for the `samovar` command."""

from samovar.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
