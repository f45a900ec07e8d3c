"""A day of two users of matrix-nio, unmodified, on one homeserver: profiles, a room, messages, a reaction, a
thread, an edit, a redaction, receipts, a search, an upgrade, and the way out. Arguments: the
homeserver's URL, two user IDs, their password.

Ends with status 0 and a last line "done" when everything went as the library says it should.
"""

import asyncio
import json
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


async def send(client, room_id, content, kind="m.room.message"):
    return expect(await client.room_send(room_id, kind, content), nio.RoomSendResponse).event_id


async def relations(client, room_id, event_id, *what):
    return [event.event_id async for event in client.room_get_event_relations(room_id, event_id, *what)]


async def post(client, path, body):
    """The answer to a request that the library does not know, with its own connection and token."""
    headers = {"Authorization": f"Bearer {client.access_token}", "Content-Type": "application/json"}
    answer = await client.send("POST", f"/_matrix/client/v3/{path}", json.dumps(body), headers)
    assert answer.status == 200, answer
    return await answer.json()


async def search(client, term):
    criteria = {"search_term": term, "order_by": "recent"}
    answer = await post(client, "search", {"search_categories": {"room_events": criteria}})
    found = answer["search_categories"]["room_events"]["results"]
    return [result["result"]["content"]["body"] for result in found]


async def meet(alice, bob):
    expect(await alice.set_displayname("Alice"), nio.ProfileSetDisplayNameResponse)
    expect(await alice.set_avatar("mxc://example.org/alice"), nio.ProfileSetAvatarResponse)
    profile = expect(await bob.get_profile(alice.user_id), nio.ProfileGetResponse)
    assert (profile.displayname, profile.avatar_url) == ("Alice", "mxc://example.org/alice"), profile

    made = expect(await alice.room_create(name="Harbour", topic="ships", invite=[bob.user_id]), nio.RoomCreateResponse)
    room_id = made.room_id
    room = await until(alice, "the new room", lambda _: alice.rooms.get(room_id))
    assert room.name == "Harbour" and room.topic == "ships", (room.name, room.topic)
    invite = await until(bob, "the invite", lambda _: bob.invited_rooms.get(room_id))
    assert invite.inviter == alice.user_id, invite.inviter
    expect(await bob.join(room_id), nio.JoinResponse)
    await until(bob, "the joined room", lambda _: bob.rooms.get(room_id))
    await until(alice, "bob", lambda _: bob.user_id in alice.rooms[room_id].users)
    members = expect(await bob.joined_members(room_id), nio.JoinedMembersResponse)
    assert {member.user_id for member in members.members} == {alice.user_id, bob.user_id}, members
    return room_id


async def talk(alice, bob, room_id, heard):
    said = await send(alice, room_id, {"msgtype": "m.text", "body": "ahoy"})
    await until(bob, "alice's message", lambda _: heard[bob].get("ahoy") == alice.user_id)
    got = expect(await bob.room_get_event(room_id, said), nio.RoomGetEventResponse)
    assert got.event.body == "ahoy", got

    annotation = nio.api.RelationshipType.annotation
    about = {"rel_type": "m.annotation", "event_id": said, "key": "👍"}
    reaction = await send(bob, room_id, {"m.relates_to": about}, "m.reaction")
    found = await relations(alice, room_id, said, annotation, "m.reaction")
    assert found == [reaction], found

    about = {"rel_type": "m.thread", "event_id": said}
    threaded = await send(bob, room_id, {"msgtype": "m.text", "body": "aye", "m.relates_to": about})
    await until(alice, "bob's reply", lambda _: heard[alice].get("aye") == bob.user_id)
    found = await relations(alice, room_id, said, nio.api.RelationshipType.thread)
    assert found == [threaded], found

    about = {"rel_type": "m.replace", "event_id": said}
    new = {"msgtype": "m.text", "body": "ahoy!"}
    await send(alice, room_id, {"msgtype": "m.text", "body": "* ahoy!", "m.new_content": new, "m.relates_to": about})
    got = expect(await bob.room_get_event(room_id, said), nio.RoomGetEventResponse)
    edit = got.event.source["unsigned"]["m.relations"]["m.replace"]
    assert edit["content"]["m.new_content"] == new, edit

    expect(await bob.room_redact(room_id, reaction), nio.RoomRedactResponse)
    found = await relations(alice, room_id, said, annotation, "m.reaction")
    assert found == [], found


async def read(alice, bob, room_id, heard):
    last = await send(alice, room_id, {"msgtype": "m.text", "body": "land!"})
    await until(bob, "alice's last message", lambda _: heard[bob].get("land!"))
    await until(bob, "something unread", lambda _: bob.rooms[room_id].unread_notifications > 0)
    expect(await bob.room_read_markers(room_id, last, last), nio.RoomReadMarkersResponse)
    await until(bob, "nothing unread", lambda _: bob.rooms[room_id].unread_notifications == 0)
    await until(alice, "bob's receipt", lambda _: alice.rooms[room_id].read_receipts.get(bob.user_id))
    assert alice.rooms[room_id].read_receipts[bob.user_id].event_id == last
    back = expect(await bob.room_messages(room_id, bob.next_batch, limit=50), nio.RoomMessagesResponse)
    bodies = [event.body for event in back.chunk if isinstance(event, nio.RoomMessageText)]
    assert bodies == ["land!", "* ahoy!", "aye", "ahoy"], bodies
    found = await search(bob, "Ahoy")
    assert found == ["* ahoy!", "ahoy"], found
    answer = await post(bob, "user_directory/search", {"search_term": "ali"})
    assert [user["display_name"] for user in answer["results"]] == ["Alice"], answer


async def leave(alice, bob, room_id):
    upgraded = expect(await alice.room_upgrade(room_id, "12"), nio.responses.RoomUpgradeResponse)
    tombstone = await bob.room_get_state_event(room_id, "m.room.tombstone", "")
    assert tombstone.content["replacement_room"] == upgraded.room_id, tombstone
    expect(await bob.room_leave(room_id), nio.RoomLeaveResponse)
    await until(bob, "that bob has left", lambda answer: room_id in answer.rooms.leave)
    await until(alice, "that bob has left", lambda _: bob.user_id not in alice.rooms[room_id].users)
    for client in (alice, bob):
        token = client.access_token
        expect(await client.logout(all_devices=True), nio.LogoutResponse)
        client.access_token = token
        who = expect(await client.whoami(), nio.WhoamiError)
        assert who.status_code == "M_UNKNOWN_TOKEN", who
        await client.close()


async def day(homeserver, alice_id, bob_id, password):
    alice, bob = nio.AsyncClient(homeserver, alice_id), nio.AsyncClient(homeserver, bob_id)
    heard = {alice: {}, bob: {}}
    for client in (alice, bob):
        expect(await client.login(password, device_name="a test"), nio.LoginResponse)
        texts = heard[client]
        client.add_event_callback(lambda room, event, texts=texts: texts.update({event.body: event.sender}), nio.RoomMessageText)
        expect(await client.sync(timeout=0, full_state=True), nio.SyncResponse)
    who = expect(await alice.whoami(), nio.WhoamiResponse)
    assert who.user_id == alice_id, who
    room_id = await meet(alice, bob)
    await talk(alice, bob, room_id, heard)
    await read(alice, bob, room_id, heard)
    await leave(alice, bob, room_id)


def main():
    asyncio.run(asyncio.wait_for(day(*sys.argv[1:]), timeout=120))
    print("done")


main()
