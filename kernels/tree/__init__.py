"""Token tree: sequences that share prefixes, each shared token once.

A tree is a trie over token ids in depth-first order, four integers a token:

    ids[i]      the token
    depth[i]    its position in every sequence that passes through it
    parent[i]   the token before it, -1 at a root
    end[i]      one past the last token of its subtree

Token i may attend to token j exactly when ``j <= i < end[j]``: ``end`` alone is the whole mask.
``plan`` works out what attention needs besides; it knows torch, and this page needs numpy alone.
"""

from kernels.tree.trie import TokenTree, build_tree, cut

__all__ = ["TokenTree", "build_tree", "cut"]
