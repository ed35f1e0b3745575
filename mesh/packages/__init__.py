"""Code on its way from where it is written to where it runs: how places of it are named, and how it is packed."""
