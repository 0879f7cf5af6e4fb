"""``python -m lightning_as`` is ``lightning-as``."""

from lightning_as.cli import main

if __name__ == "__main__":
    main()
