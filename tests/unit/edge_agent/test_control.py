"""Commands over a real Unix socket and from the town: carried out once, refused with a reason, never a crash."""

import asyncio
import json
import os
import stat
from decimal import Decimal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from drivers.api import ConfigError, MalformedError, RefusedError
from edge_agent import control, wire
from edge_agent.control import Desk, NoAgentError, ask, listening

NOW_MS = 1_790_000_000_000


def desk(handlers=None, now_ms=NOW_MS):
    async def echo(arguments):
        return dict(arguments)

    async def unknown(name, arguments):
        raise RefusedError(f"no command {name!r}")

    return Desk({"echo": echo, **(handlers or {})}, unknown, lambda: now_ms)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "house-001.sock"


async def raw(path, *pieces):
    """Send bytes as they are and return every line that comes back."""
    reader, writer = await asyncio.open_unix_connection(path)
    try:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
        writer.write_eof()
        async with asyncio.timeout(5):
            return (await reader.read()).splitlines()
    finally:
        writer.close()


async def test_a_command_is_answered_with_exact_numbers(path):
    async def energy(arguments):
        return {"import_energy_kwh": Decimal("12345.6000")}

    async with listening(path, desk({"energy": energy})):
        assert await ask([path], "energy", {}) == {"import_energy_kwh": Decimal("12345.6000")}
        assert await ask([path], "echo", {"電力": [1, None]}) == {"電力": [1, None]}


async def test_what_only_a_person_at_the_box_may_do_the_town_cannot(path):
    async def hand_over(arguments):
        return "taken"

    async def unknown(name, arguments):
        raise RefusedError(f"no command {name!r}")

    here = Desk({}, unknown, lambda: NOW_MS, {"hand_over": hand_over})
    async with listening(path, here):
        assert await ask([path], "hand_over", {}) == "taken"
    answer = await here.answer("hand_over", wire.Command("c1", sent=NOW_MS, expires_s=60))
    assert (answer.ok, answer.error) == (False, "no command 'hand_over'")


async def test_a_refusal_carries_its_reason(path):
    async with listening(path, desk()):
        with pytest.raises(RefusedError, match="no command 'dance'"):
            await ask([path], "dance", {})


async def test_only_owner_and_group_may_connect(path):
    async with listening(path, desk()):
        assert stat.S_IMODE(path.stat().st_mode) == 0o660
    assert not path.exists()


async def test_without_an_agent_the_caller_is_told(tmp_path):
    with pytest.raises(NoAgentError):
        await ask([tmp_path / "none.sock", tmp_path / "none" / "none.sock"], "echo", {})


async def test_the_first_socket_somebody_answers_on_is_used(tmp_path, path):
    async with listening(path, desk()):
        assert await ask([tmp_path / "none.sock", path], "echo", {"a": 1}) == {"a": 1}


async def test_a_dead_agents_socket_is_taken_over(path):
    control._bind(path).close()
    assert path.exists()
    with pytest.raises(NoAgentError):
        await ask([path], "echo", {})
    async with listening(path, desk()):
        assert await ask([path], "echo", {}) == {}


async def test_a_second_agent_of_the_same_gateway_is_refused(path):
    async with listening(path, desk()):
        with pytest.raises(ConfigError, match="another agent already runs"):
            async with listening(path, desk()):
                pass
        assert await ask([path], "echo", {}) == {}


async def test_a_folder_deeper_than_a_socket_address_is_no_obstacle(tmp_path):
    deep = tmp_path.joinpath(*["folder" * 5] * 5) / "house-001.sock"
    assert len(os.fsencode(deep)) > 107
    async with listening(deep, desk()):
        assert await ask([deep], "echo", {"deep": True}) == {"deep": True}
    assert not deep.exists()


async def test_a_folder_that_cannot_be_made_names_the_remedy(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="runtime_directory"):
        async with listening(tmp_path / "file" / "x.sock", desk()):
            pass


@pytest.mark.parametrize(
    "line",
    [
        b"{}",
        b"[]",
        b"null",
        b"\xff\xfe",
        b'{"command": 7}',
        b'{"command": "echo", "arguments": []}',
        b"[" * 5000,
        b'{"a',
    ],
)
async def test_what_is_no_request_is_refused_and_the_next_one_answered(path, line):
    async with listening(path, desk()):
        lines = await raw(path, line + b"\n", b'{"command": "echo"}\n')
        assert json.loads(lines[0])["ok"] is False
        assert json.loads(lines[1]) == {"ok": True, "result": {}}


async def test_a_request_without_end_is_refused_and_hung_up_on(path):
    async with listening(path, desk()):
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(b"x" * (3 * control.MAX_REQUEST_BYTES))
        async with asyncio.timeout(5):
            assert b"longer than" in await reader.readline()
            assert await reader.read() == b""
        writer.close()


async def test_requests_may_come_in_any_pieces(path):
    whole = b'{"command": "echo", "arguments": {"a": 1}}\n' * 2
    async with listening(path, desk()):
        lines = await raw(path, *(whole[at : at + 1] for at in range(len(whole))))
    assert [json.loads(line)["result"] for line in lines] == [{"a": 1}] * 2


async def test_more_connections_than_allowed_are_hung_up_on(path):
    async with listening(path, desk()):
        held = [await asyncio.open_unix_connection(path) for _ in range(control.MAX_CONNECTIONS)]
        for reader, writer in held:  # each is served before the next one knocks
            writer.write(b'{"command": "echo"}\n')
            await reader.readline()
        reader, writer = await asyncio.open_unix_connection(path)
        async with asyncio.timeout(5):
            assert await reader.read() == b""
        held[0][1].close()
        await held[0][1].wait_closed()
        async with asyncio.timeout(5):
            while True:
                try:
                    assert await ask([path], "echo", {}) == {}
                    break
                except (MalformedError, control.LinkError):  # the place is free once the server has seen it
                    await asyncio.sleep(0)
        for _, one in [*held, (reader, writer)]:
            one.close()


@pytest.mark.parametrize("result", [object(), {"a": [object()]}, "x" * 100_000])
async def test_a_result_that_cannot_be_sent_is_an_error_and_no_crash(path, result):
    async def odd(arguments):
        return result

    async with listening(path, desk({"odd": odd})):
        with pytest.raises(RefusedError, match="odd"):
            await ask([path], "odd", {})
        assert await ask([path], "echo", {}) == {}


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50, deadline=None)
@given(st.lists(st.binary(max_size=80), max_size=6))
def test_noise_never_stops_the_agent(tmp_path, pieces):
    async def noise():
        path = tmp_path / "noise.sock"
        async with listening(path, desk()):
            for line in await raw(path, *pieces):
                json.loads(line)
            assert await ask([path], "echo", {}) == {}

    asyncio.run(noise())


# From the town


def command(name="c-1", sent=NOW_MS, expires_s=60, **arguments):
    return wire.Command(name, sent, expires_s, arguments)


async def test_the_town_gets_the_result_under_the_commands_id():
    assert await desk().answer("echo", command(a=1)) == wire.Response("c-1", ok=True, result={"a": 1})


async def test_the_town_gets_the_reason_of_a_refusal():
    response = await desk().answer("dance", command())
    assert (response.ok, response.error) == (False, "no command 'dance'")


@pytest.mark.parametrize(
    ("sent", "expires_s", "runs"),
    [
        (NOW_MS - 59_000, 60, True),
        (NOW_MS - 60_000, 60, True),
        (NOW_MS - 60_001, 60, False),
        (NOW_MS - 120_000, 60, False),
        (NOW_MS + 30_000, 60, True),
        (NOW_MS + 3_600_000, 60, False),
        (NOW_MS, 0, False),
        (NOW_MS, -5, False),
        (NOW_MS, 1e9, False),
        (NOW_MS, float("nan"), False),
    ],
)
async def test_an_expired_command_is_refused(sent, expires_s, runs):
    response = await desk().answer("echo", command(sent=sent, expires_s=expires_s))
    assert response.ok is runs
    assert runs or response.error


async def test_without_a_clock_no_command_can_be_judged():
    response = await desk(now_ms=None).answer("echo", command())
    assert not response.ok
    assert "clock is not set" in response.error


@pytest.mark.looptime
async def test_an_id_seen_lately_is_answered_again_and_not_run_again():
    runs = []

    async def count(arguments):
        runs.append(arguments)
        await asyncio.sleep(5)
        return len(runs)

    counting = desk({"count": count})
    async with asyncio.TaskGroup() as tasks:
        both = [tasks.create_task(counting.answer("count", command())) for _ in range(2)]
    assert [one.result().result for one in both] == [1, 1]
    await asyncio.sleep(control.REMEMBERED_S - 10)
    assert (await counting.answer("count", command())).result == 1
    await asyncio.sleep(20)
    assert (await counting.answer("count", command())).result == 2


@pytest.mark.looptime
async def test_a_command_that_never_ends_is_given_up():
    async def endless(arguments):
        await asyncio.sleep(1e9)

    response = await desk({"endless": endless}).answer("endless", command())
    assert not response.ok
    assert "not done within" in response.error


async def test_a_flood_of_commands_is_refused_before_it_fills_the_memory(monkeypatch):
    monkeypatch.setattr(control, "REMEMBERED", 10)
    flooded = desk()
    answers = [await flooded.answer("echo", command(f"c-{number}")) for number in range(12)]
    assert [answer.ok for answer in answers] == [True] * 10 + [False] * 2
