"""Whatever a monitor does instead of answering, whoever asked is told the command, the address and the reason."""

from __future__ import annotations

import asyncio
import json
import pickle
import signal
from pathlib import Path
from typing import Any

import pytest

from simlib.real_qemu import monitor
from simlib.real_qemu.monitor import Monitor, QemuError, Refused
from simlib.real_qemu.process import Qemu

GREETING = b'{"QMP": {"version": {}, "capabilities": []}}\n'


async def asked(folder: Path, says: dict[str, bytes | None]) -> str:
    """What a monitor says of a server that answers each command, and "" at first, with these bytes, or hangs up."""

    async def served(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        command, number = "", 0
        while (answer := says[command]) is not None:
            writer.write(answer.replace(b"ID", json.dumps(number).encode()))
            line = await reader.read(1 << 16)  # the client sends no line ends
            if not line:
                break
            question = json.loads(line)
            command, number = question["execute"], question.get("id")
        writer.close()

    server = await asyncio.start_unix_server(served, str(folder / "qmp"))
    client = Monitor("source", folder)
    try:
        await client.connect(str(folder / "qmp"))
        return str(await client.ask("query-status"))
    except QemuError as error:
        return f"{type(error).__name__}: {error}"
    finally:
        await client.disconnect()
        server.close()


GOOD: dict[str, bytes | None] = {"": GREETING, "qmp_capabilities": b'{"return": {}}\n'}
SILENT = "nothing was said for 0.3 s: another manager holds it, or it is blocked"
ANSWERS: dict[str, tuple[dict[str, bytes | None], str]] = {
    "silent": ({"": b""}, f"({SILENT})"),
    "hangs up": ({"": None}, "(it hung up without a word)"),
    "no QMP": ({"": b"hello\n"}, "(Did not understand Greeting"),
    "refuses a manager": (
        {"": GREETING, "qmp_capabilities": b'{"error": {"class": "x", "desc": ""}}\n'},
        "(Negotiation failed)",
    ),
    "is blocked": ({**GOOD, "query-status": b""}, "its monitor is blocked, query-status was not answered in 0.3 s"),
    "ends": ({**GOOD, "query-status": None}, "its monitor was gone before it answered query-status"),
    "refuses": (
        {**GOOD, "query-status": b'{"error": {"class": "x", "desc": "no \\u001b[31m"}, "id": ID}\n'},
        "refuses query-status: no  [31m",
    ),
    "refuses without a word": (
        {**GOOD, "query-status": b'{"error": {"class": "x", "desc": ""}, "id": ID}\n'},
        "refuses query-status: QEMU does not say why",
    ),
    "answers nonsense": ({**GOOD, "query-status": b'{"id": ID}\n'}, "query-status is not answered as QEMU does: "),
}


@pytest.mark.parametrize("does", ANSWERS)
def test_a_monitor_that_does_not_answer_is_told_with_command_address_and_reason(
    does: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(monitor, "PATIENCE_S", 0.3)
    says, expected = ANSWERS[does]
    text = asyncio.run(asked(tmp_path, says))
    assert expected in text and str(tmp_path / "qmp") in text and "\n" not in text
    assert text.startswith("Refused: " if does.startswith("refuses") and "query-status" in says else "QemuError: ")


def test_an_address_may_be_written_as_qemu_writes_it(tmp_path: Path) -> None:
    async def connected() -> str:
        client = Monitor("source", tmp_path)
        with pytest.raises(QemuError) as caught:
            await client.connect(f"unix:{tmp_path}/nobody")
        return str(caught.value)

    assert asyncio.run(connected()).startswith(f"{tmp_path}/nobody: no QMP monitor answers there (No such file")


def test_guest_memory_that_did_not_fit_on_the_disk_is_told(tmp_path: Path) -> None:
    class Full(Monitor):
        async def _ask(self, command: str, arguments: dict[str, Any], patience_s: float) -> None:
            Path(arguments["filename"]).write_bytes(b"")

    with pytest.raises(QemuError, match=r"source: pmemsave wrote 0 of 4096 bytes; is .* full"):
        asyncio.run(Full("source", tmp_path).memory(0, 4096))


def test_a_refusal_survives_the_way_from_another_process() -> None:
    again = pickle.loads(pickle.dumps(Refused("source: refuses cont: no", "no")))
    assert (str(again), again.why) == ("source: refuses cont: no", "no")


def test_qemu_s_own_words_are_told_where_it_ends_in_the_middle(qemus: dict[str, str], tmp_path: Path) -> None:
    async def ended(binary: str) -> str:
        async with Qemu(binary, ("-M", "none", "-display", "none"), tmp_path, "source") as qemu:
            qemu.signal(signal.SIGTERM)
            with pytest.raises(QemuError) as caught:
                while True:
                    await qemu.ask("query-status")
            return str(caught.value)

    for version in ("7.2", "10.0"):
        text = asyncio.run(ended(qemus[version]))
        assert "source: its monitor was gone before it answered query-status: terminating on signal 15" in text
