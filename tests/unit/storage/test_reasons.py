from __future__ import annotations

import pytest

from akool_dagster.storage.errors import reason

URL = "https://account.blob.core.windows.net/box/x?sv=2024&sig=hunter2"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            f"PUT {URL} - status code: 403 Forbidden: <Error><Code>AuthenticationFailed</Code><Message>"
            f"Server failed to authenticate {URL}\nRequestId:7\nTime:2026</Message></Error>",
            "Server failed to authenticate https://account.blob.core.windows.net/box/x RequestId:7 Time:2026",
        ),
        ('status code: 404 Not Found: {"error": {"code": 404, "message": "No such object"}}', "No such object"),
        (
            f"HEAD {URL} - Server returned non-2xx status code: 503 Service Unavailable: \n\nDebug source:\nStatus",
            "503",
        ),
        (f"HEAD {URL} - HTTP error\n\nDebug source:\nkind: Timeout", "the storage did not answer in time"),
        ("PUT http://169.254.169.254/latest/api/token - HTTP error", "there are no credentials. Set AWS_ACCESS_KEY_ID"),
        (f"something else at {URL}\n\nDebug source:\nx", "something else at https://account.blob"),
        ("", "OSError"),
    ],
)
def test_the_reason_of_a_failed_request_is_one_sentence_without_secrets(text: str, said: str) -> None:
    told = reason(OSError(text))
    assert said in told
    assert "hunter2" not in told and "\n" not in told
