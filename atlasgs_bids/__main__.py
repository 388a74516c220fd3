"""``python -m atlasgs_bids``: the same as ``atlasgs``."""

from atlasgs_bids.app.cli import main

if __name__ == "__main__":
    main(prog_name="atlasgs")
