"""The guard as an HTTP endpoint (extra `serve`): `create_app(config)`, and `vlmguard serve` on the command line."""
