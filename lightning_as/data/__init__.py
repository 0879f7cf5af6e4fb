"""A data set becomes bins, a sampler and a loader."""
