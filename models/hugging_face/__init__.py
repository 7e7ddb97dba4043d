"""Models of the library `transformers` as backbones and networks, named `hf:MODEL`."""
