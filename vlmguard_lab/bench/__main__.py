"""`python -m vlmguard_lab.bench`."""

from vlmguard_lab.bench.app import app

if __name__ == "__main__":
    app()
