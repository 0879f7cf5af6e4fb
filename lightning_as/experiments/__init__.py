"""Experiments: the thesis's protocol, run as studies, and what came out of them."""
