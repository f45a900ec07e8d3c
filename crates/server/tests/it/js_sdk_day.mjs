// A day of two users of matrix-js-sdk, unmodified, on one homeserver: profiles, a room, messages, a
// reaction, a thread, an edit, a redaction, receipts, a search, an upgrade, and the way out.
// Arguments: the directory where the library is installed, the homeserver's URL, two user IDs, their password.
//
// Ends with status 0 and a last line "done" when everything went as the library says it should.

import assert from "node:assert/strict";
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

const [library, baseUrl, aliceId, bobId, password] = process.argv.slice(2);
// The library tells at length what it does.
for (const level of ["log", "debug", "info", "warn", "trace"]) {
    console[level] = () => {};
}
const entry = createRequire(`${library}/package.json`).resolve("matrix-js-sdk");
const sdk = await import(pathToFileURL(entry).href);

const PATIENCE_MS = 30_000;

async function logIn(userId) {
    const door = sdk.createClient({ baseUrl });
    const session = await door.loginRequest({
        type: "m.login.password",
        identifier: { type: "m.id.user", user: userId },
        password,
    });
    const client = sdk.createClient({
        baseUrl,
        userId,
        accessToken: session.access_token,
        deviceId: session.device_id,
        timelineSupport: true,
    });
    await client.startClient({ initialSyncLimit: 20, threadSupport: true });
    await until(client, "the first sync", () => client.isInitialSyncComplete());
    return client;
}

// Waits until something is so. Some of what a sync brings is taken in after the library has announced it, so
// there is nothing to be woken by.
async function until(client, what, isSo) {
    for (const begun = Date.now(); Date.now() - begun < PATIENCE_MS; ) {
        const found = isSo();
        if (found) {
            return found;
        }
        await new Promise((resolve) => setTimeout(resolve, 50));
    }
    throw new Error(`${client.getUserId()} was not shown ${what}`);
}

function eventShown(client, roomId, eventId) {
    return until(client, eventId, () => client.getRoom(roomId)?.findEventById(eventId));
}

async function meet(alice, bob) {
    await alice.setDisplayName("Alice");
    await alice.setAvatarUrl("mxc://example.org/alice");
    const profile = await bob.getProfileInfo(aliceId);
    assert.equal(profile.displayname, "Alice");
    assert.equal(profile.avatar_url, "mxc://example.org/alice");

    const { room_id: roomId } = await alice.createRoom({ name: "Harbour", preset: "private_chat", invite: [bobId] });
    await until(bob, "the invite", () => bob.getRoom(roomId)?.getMyMembership() === "invite");
    await bob.joinRoom(roomId);
    await until(alice, "bob's join", () => alice.getRoom(roomId)?.getMember(bobId)?.membership === "join");
    const room = await until(bob, "the room", () => {
        const room = bob.getRoom(roomId);
        return room?.getMyMembership() === "join" && room;
    });
    assert.equal(room.name, "Harbour");
    assert.equal(room.getMember(aliceId).name, "Alice");
    return roomId;
}

async function talk(alice, bob, roomId) {
    const { event_id: said } = await alice.sendTextMessage(roomId, "a lighthouse ahead");
    await eventShown(bob, roomId, said);

    const relation = { rel_type: "m.annotation", event_id: said, key: "👍" };
    const { event_id: reaction } = await bob.sendEvent(roomId, "m.reaction", { "m.relates_to": relation });
    const reactions = await alice.relations(roomId, said, "m.annotation", "m.reaction");
    assert.deepEqual(reactions.events.map((event) => event.getId()), [reaction]);

    // Without the library's way of sending, which takes events in threads amiss if they arrive before they
    // were answered.
    const reply = { "msgtype": "m.text", "body": "I see it", "m.relates_to": { rel_type: "m.thread", event_id: said } };
    const path = `/rooms/${encodeURIComponent(roomId)}/send/m.room.message/reply`;
    const { event_id: threaded } = await bob.http.authedRequest("PUT", path, undefined, reply);
    const thread = await until(alice, "the thread", () => alice.getRoom(roomId).getThread(said));
    await until(alice, "the reply", () => thread.replyToEvent?.getId() === threaded);
    assert.equal(thread.length, 1);
    const root = await alice.fetchRoomEvent(roomId, said);
    assert.equal(root.unsigned["m.relations"]["m.thread"].latest_event.event_id, threaded);

    // Not of the thread's root, for the same reason.
    const { event_id: second } = await alice.sendTextMessage(roomId, "a lighthouse abeam");
    await eventShown(bob, roomId, second);
    await alice.sendEvent(roomId, "m.room.message", {
        "msgtype": "m.text",
        "body": "* a lighthouse astern",
        "m.new_content": { msgtype: "m.text", body: "a lighthouse astern" },
        "m.relates_to": { rel_type: "m.replace", event_id: second },
    });
    await until(bob, "the edit", () => bob.getRoom(roomId).findEventById(second).getContent().body === "a lighthouse astern");

    await bob.redactEvent(roomId, reaction);
    await until(alice, "the redaction", () => alice.getRoom(roomId).findEventById(reaction)?.isRedacted());
    const left = await alice.relations(roomId, said, "m.annotation", "m.reaction");
    assert.deepEqual(left.events, []);
    return said;
}

async function read(alice, bob, roomId) {
    const { event_id: last } = await alice.sendTextMessage(roomId, "land in sight, bob");
    const event = await eventShown(bob, roomId, last);
    await until(bob, "something unread", () => bob.getRoom(roomId).getUnreadNotificationCount("total") > 0);
    await bob.sendReadReceipt(event);
    await until(bob, "nothing unread", () => bob.getRoom(roomId).getUnreadNotificationCount("total") === 0);
    await until(alice, "the receipt", () => alice.getRoom(roomId).hasUserReadEvent(bobId, last));
}

async function search(bob) {
    const found = await bob.searchRoomEvents({ term: "Lighthouse" });
    const bodies = found.results.map((result) => result.context.getEvent().getOriginalContent().body);
    assert.deepEqual(bodies, ["* a lighthouse astern", "a lighthouse abeam", "a lighthouse ahead"]);
    assert.equal(found.count, 3);
    assert.deepEqual(found.highlights, ["lighthouse"]);
    const answer = await bob.searchMessageText({ query: "sight bob" });
    const { results } = answer.search_categories.room_events;
    assert.deepEqual(results.map((result) => result.result.content.body), ["land in sight, bob"]);
    const users = await bob.searchUserDirectory({ term: "ali" });
    assert.deepEqual(users.results.map((user) => user.user_id), [aliceId]);
    assert.equal(users.results[0].display_name, "Alice");
}

async function leave(alice, bob, roomId) {
    const { replacement_room: successor } = await alice.upgradeRoom(roomId, "11");
    await until(bob, "the tombstone", () => {
        const tombstone = bob.getRoom(roomId).currentState.getStateEvents("m.room.tombstone", "");
        return tombstone?.getContent().replacement_room === successor;
    });
    await alice.invite(successor, bobId);
    await until(bob, "the next invite", () => bob.getRoom(successor)?.getMyMembership() === "invite");
    await bob.joinRoom(successor);
    await until(bob, "the next room", () => bob.getRoom(successor).getMyMembership() === "join");
    for (const room of [roomId, successor]) {
        await bob.leave(room);
        await until(alice, "that bob left", () => alice.getRoom(room).getMember(bobId).membership === "leave");
    }
    for (const client of [alice, bob]) {
        client.stopClient();
        await client.http.authedRequest("POST", "/logout/all");
        await assert.rejects(client.whoami(), { errcode: "M_UNKNOWN_TOKEN" });
    }
}

const alice = await logIn(aliceId);
const bob = await logIn(bobId);
const roomId = await meet(alice, bob);
await talk(alice, bob, roomId);
await read(alice, bob, roomId);
await search(bob);
await leave(alice, bob, roomId);
process.stdout.write("done\n", () => process.exit(0));
