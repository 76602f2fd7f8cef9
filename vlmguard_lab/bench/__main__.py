"""The program `vlmguard-bench`, also as `python -m vlmguard_lab.bench`."""

from langchain_vlmguard.cli.program import run


def main() -> None:
    """Run the command line."""
    run("vlmguard_lab.bench.app")


if __name__ == "__main__":
    main()
