"""`python -m vlmguard_lab.reference`."""

from vlmguard_lab.reference.app import app

if __name__ == "__main__":
    app()
