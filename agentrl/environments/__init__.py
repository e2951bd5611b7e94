"""Environments, worlds to act in, by name: ``gymnasium:FrozenLake-v1`` is the module of that name
here, with the rest as its argument; ``docs/environments.md`` has them all."""
