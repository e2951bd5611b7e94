"""Other trainers' losses and credit beside ours: ``make oracles`` prints how far apart they are.

``requirements-oracles.txt`` names their packages, which lie unpacked in ``.oracles``; nothing of
them is installed. ``stubs`` makes them importable in part, ``trainers`` has a file for each, and
``comparisons`` says what of theirs is the same as what of ours.
"""
