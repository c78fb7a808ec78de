"""A generator of whole models, as source: each is exported and compared with eager PyTorch; failures are shrunk."""
