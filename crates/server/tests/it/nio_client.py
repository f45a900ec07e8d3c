"""Two users of matrix-nio, unmodified, on one homeserver: log in, sync, create a room, join it,
send, receive, leave. Arguments: the homeserver's URL, two user IDs, their password.

Ends with status 0 and a last line "done" when everything went as the library says it should.
"""

import asyncio
import sys

import nio


def expect(answer, kind):
    """The answer, unless the library says that it is another."""
    if not isinstance(answer, kind):
        raise RuntimeError(f"expected {kind.__name__}, got {answer!r}")
    return answer


async def until(client, what, found):
    """Syncs until `found` answers something about the answer or about what the library keeps."""
    for _ in range(20):
        answer = expect(await client.sync(timeout=3000, full_state=False), nio.SyncResponse)
        if result := found(answer):
            return result
    raise RuntimeError(f"{client.user_id} was not shown {what}")


async def talk(homeserver, alice_id, bob_id, password):
    alice, bob = nio.AsyncClient(homeserver, alice_id), nio.AsyncClient(homeserver, bob_id)
    heard = {alice_id: {}, bob_id: {}}
    for client in (alice, bob):
        expect(await client.login(password, device_name="a test"), nio.LoginResponse)
        texts = heard[client.user_id]
        client.add_event_callback(lambda room, event, texts=texts: texts.update({event.body: event.sender}), nio.RoomMessageText)
        expect(await client.sync(timeout=0, full_state=True), nio.SyncResponse)
    who = expect(await alice.whoami(), nio.WhoamiResponse)
    assert who.user_id == alice_id, who

    made = expect(
        await alice.room_create(name="Harbour", topic="ships", preset=nio.RoomPreset.public_chat), nio.RoomCreateResponse
    )
    room_id = made.room_id
    room = await until(alice, "the new room", lambda _: alice.rooms.get(room_id))
    assert room.name == "Harbour" and room.topic == "ships", (room.name, room.topic)

    expect(await bob.join(room_id), nio.JoinResponse)
    await until(bob, "the joined room", lambda _: bob.rooms.get(room_id))
    await until(alice, "bob", lambda _: bob_id in alice.rooms[room_id].users)
    members = expect(await bob.joined_members(room_id), nio.JoinedMembersResponse)
    assert {member.user_id for member in members.members} == {alice_id, bob_id}, members

    content = {"msgtype": "m.text", "body": "ahoy"}
    sent = expect(await alice.room_send(room_id, "m.room.message", content), nio.RoomSendResponse)
    await until(bob, "alice's message", lambda _: heard[bob_id].get("ahoy") == alice_id)
    got = expect(await bob.room_get_event(room_id, sent.event_id), nio.RoomGetEventResponse)
    assert got.event.body == "ahoy", got
    expect(await bob.room_send(room_id, "m.room.message", {"msgtype": "m.text", "body": "aye"}), nio.RoomSendResponse)
    await until(alice, "bob's message", lambda _: heard[alice_id].get("aye") == bob_id)

    # Bob's token is from before his own message.
    back = expect(await bob.room_messages(room_id, bob.next_batch, limit=50), nio.RoomMessagesResponse)
    bodies = [event.body for event in back.chunk if isinstance(event, nio.RoomMessageText)]
    assert bodies == ["ahoy"], bodies

    expect(await bob.room_leave(room_id), nio.RoomLeaveResponse)
    await until(bob, "that bob has left", lambda answer: room_id in answer.rooms.leave)
    await until(alice, "that bob has left", lambda _: bob_id not in alice.rooms[room_id].users)
    for client in (alice, bob):
        expect(await client.logout(), nio.LogoutResponse)
        await client.close()


def main():
    asyncio.run(asyncio.wait_for(talk(*sys.argv[1:]), timeout=120))
    print("done")


main()
