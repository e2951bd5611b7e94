"""Viewer of runs, a page: charts of their metrics, and every token of every episode.

    python -m agentrl.viewer runs/gsm8k/20261121-120000 [RUN ...]
    python -m agentrl.viewer runs/gsm8k --export gsm8k.html

    answers.py     what the page may ask of a run, and what it is told
    server.py      the same over HTTP, on the loopback
    export.py      page and answers in one file, which needs no server
    page/          the page: a stylesheet, modules with one purpose each, and ``vendor/``

**Why no framework and no build step.** What has to be quick here is one list of a hundred
thousand tokens, and that is drawn by hand whichever framework stands around it
(``page/tokens.js``). The rest is a few panes that follow the page's address. So the page is plain
ES modules: what is in the repository is what the browser runs, a fresh clone needs no Node, and an
export is the same files put into one. Charts are uPlot's (MIT, 50 KB): bands, cursors that move
together, no dependency.

Modules name each other as ``viewer/<name>``, and the page's import map says where that is: a path
when it is served, a ``data:`` URL in an export. So nothing has to be bundled.
"""
