"""`python -m vlmguard_lab.reference`."""

from langchain_vlmguard.cli.program import run

if __name__ == "__main__":
    run("vlmguard_lab.reference.app")
