"""Viewer of runs, a page: charts of their metrics, and every token of every episode.

    python -m agentrl.viewer runs/gsm8k/20261121-120000 [RUN ...]

    answers.py     what the page may ask of a run, and what it is told
    server.py      the same over HTTP, on the loopback
    page/          the page: a stylesheet, modules with one purpose each, and ``vendor/``

**Why no framework and no build step.** The page is a few panes that follow its address, and one
list of a hundred thousand tokens, which is text that the browser lays out. So it is plain ES
modules: what is in the repository is what the browser runs, and a fresh clone needs no Node. Charts
are uPlot's (MIT, 50 KB): bands, cursors that move together, no dependency.
"""
