"""`python -m fer_cli`, the same as the `fer` command."""

from fer_cli.cli.app import main

if __name__ == "__main__":
    main()
