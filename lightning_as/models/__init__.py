"""Ready modules: the thesis's network and an embedding."""
