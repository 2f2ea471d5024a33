"""`python -m retrobench`, which is `retrobench`."""

from retrobench.cli import main

if __name__ == "__main__":
    main()
