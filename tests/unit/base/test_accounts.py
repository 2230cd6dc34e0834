from __future__ import annotations

from akool_dagster.base.accounts import shown_command


def test_a_command_in_a_message_names_the_account_unless_it_is_the_default() -> None:
    assert shown_command("track ID --again", "akool") == "`akool-dagster track ID --again`"
    assert shown_command("track ID --again", "studio") == "`akool-dagster track ID --again --account studio`"
