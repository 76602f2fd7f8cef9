"""The program `vlmguard`, also as `python -m langchain_vlmguard.cli`."""

from langchain_vlmguard.cli.program import run


def main() -> None:
    """Run the command line."""
    run("langchain_vlmguard.cli.app")


if __name__ == "__main__":
    main()
