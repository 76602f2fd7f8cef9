"""The reference model: a small vision-language model of real pretrained weights, put together and trained by this package."""
