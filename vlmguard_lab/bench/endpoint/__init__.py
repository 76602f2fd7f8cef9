"""What is measured of `vlmguard serve`: processes of their own on loopback, and callers that see every byte."""
