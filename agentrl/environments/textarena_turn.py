"""Turn of a TextArena game: whose it is, and what is new to that player."""

import re
from typing import Any

MOVE = re.compile(r"\[(?!Player|GAME)[^\[\]\n]{1,40}\]")


def next_turn(game: Any) -> tuple[int, str, list[str]]:
    """The player's number, what it is told, and the moves that this offers it in brackets."""
    # A wrapper would tell everything from the start.
    while hasattr(game, "env"):
        game = game.env
    number, messages = game.get_observation()
    roles, lines, offered = game.state.role_mapping, [], []
    for by, said, kind in messages:
        moves = MOVE.findall(said) if by == -1 else ()
        if moves and kind.name != "GAME_ACTION_DESCRIPTION":
            offered = [*dict.fromkeys(moves)]
        if by != number:
            lines.append(said if by == -1 else f"[{roles.get(by, by)}] {said}")
    return number, "\n".join(lines), offered
