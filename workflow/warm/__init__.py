"""A process that has loaded everything and forks: no job of a build imports torch again.

``client`` is what the rules and Jupyter start, ``serving`` forks for it, ``server`` says what is
loaded and run, and ``reach`` starts the server for the duration of a build. Without a server, or
after a change of the sources, the same command runs in a process of its own.
"""
