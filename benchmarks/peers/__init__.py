"""`make bench-peers`: peers from PyPI, each in an environment of its own, side by side with ours.

`systems` says what is compared, in which versions and with which settings; `environments` installs it; `running`
starts and ends it, through `keeper`; `comparison` measures pairs; `figures` is the arithmetic. `code/` is what the
peers serve.
"""
