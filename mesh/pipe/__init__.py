"""The data path between a caller and replicas: admission, balancing and the multiplexed stream."""
