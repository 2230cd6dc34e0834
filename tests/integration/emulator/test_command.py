from __future__ import annotations

import re
import shlex
import signal
from typing import Any

import pytest
import requests

from akool_dagster.emulator import AkoolEmulator, EmulatorError, population
from akool_dagster.emulator.command import serve, track_command
from tests.clock import FakeClock


class Terminal:
    """Collects what is printed, asks the API twice as told, and then presses Ctrl-C or kills."""

    def __init__(self, number: signal.Signals) -> None:
        self.lines: list[str] = []
        self.answers: list[dict[str, Any]] = []
        self._number = number

    def echo(self, text: str) -> None:
        self.lines.append(text)
        if text == "Ctrl-C stops it.":
            found = re.search(r"export AKOOL_BASE_URL=(\S+) AKOOL_API_KEY=(\S+)", "\n".join(self.lines))
            assert found is not None
            for _ in range(2):
                response = requests.post(
                    f"{found[1]}/api/open/v4/image2Video/resultsByIds",
                    json={"_ids": ",".join(self.tracked)},
                    headers={"x-api-key": found[2]},
                    timeout=10,
                )
                self.answers.append(response.json())
            signal.raise_signal(self._number)

    @property
    def tracked(self) -> list[str]:
        command = next(text for text in self.lines if text.startswith("akool-dagster"))
        words = shlex.split(command.replace("\\\n", " "))
        assert words[:2] == ["akool-dagster", "track"]
        return words[2:]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_serve_prints_what_to_copy_and_ends_cleanly(number: signal.Signals) -> None:
    handlers = [signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)]
    terminal = Terminal(number)
    clock = FakeClock()
    serve(port=0, seed=4, jobs=7, speed=2.0, echo=terminal.echo, clock=clock)
    assert terminal.tracked == [job.job_id for job in population(7, seed=4, now_ms=clock.now_ms())]
    assert len(terminal.answers[0]["data"]["result"]) == 7
    assert terminal.lines[-1] == "The emulator has stopped."
    assert max(len(line) for text in terminal.lines for line in text.splitlines()) <= 110
    assert [signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)] == handlers


def test_faults_and_the_limit_of_ids_are_on_from_the_start() -> None:
    terminal = Terminal(signal.SIGTERM)
    flags = ["1005,times=1,retry_after=Thu, 09 Oct 2025 08:53:20 GMT"]
    serve(
        port=0,
        seed=4,
        jobs=3,
        speed=1.0,
        echo=terminal.echo,
        clock=FakeClock(),
        faults=flags,
        fault_rate=1e-9,
        max_ids_per_call=2,
    )
    assert [answer["code"] for answer in terminal.answers] == [1005, 1003]
    assert any("/emulator/faults shows and changes them" in text for text in terminal.lines)


@pytest.mark.parametrize("flag", ["no_such", "429,colour=red", "poison_id", "1005,endpoint=cdn", "429,times=x"])
def test_a_fault_that_cannot_be_is_a_clear_error_before_anything_is_served(flag: str) -> None:
    lines: list[str] = []
    with pytest.raises(EmulatorError, match=r"\w+.*\.$"):
        serve(port=0, seed=0, jobs=1, speed=1.0, echo=lines.append, faults=[flag])
    assert lines == []


def test_a_taken_port_is_a_clear_error_and_leaves_the_signals_as_they_were() -> None:
    handler = signal.getsignal(signal.SIGTERM)
    with AkoolEmulator() as emulator:
        port = int(emulator.base_url.rpartition(":")[2])
        with pytest.raises(EmulatorError, match="Choose another port"):
            serve(port=port, seed=0, jobs=1, speed=1.0, echo=lambda text: None)
    assert signal.getsignal(signal.SIGTERM) is handler


def test_an_empty_population_is_served_without_a_track_command() -> None:
    lines: list[str] = []

    def echo(text: str) -> None:
        lines.append(text)
        if text == "Ctrl-C stops it.":
            signal.raise_signal(signal.SIGTERM)

    serve(port=0, seed=0, jobs=0, speed=1.0, echo=echo, clock=FakeClock())
    assert not any("track" in text for text in lines)


def test_the_track_command_survives_a_shell() -> None:
    job_ids = [f"{number:024x}" for number in range(40)]
    command = track_command(job_ids)
    assert "\\\n" in command
    assert shlex.split(command.replace("\\\n", "")) == ["akool-dagster", "track", *job_ids]
