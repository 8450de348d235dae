"""`python -m wsseg`: the same as the command `wsseg`."""

from wsseg.cli.main import main

if __name__ == "__main__":
    main()
