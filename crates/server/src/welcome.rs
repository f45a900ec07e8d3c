//! What is printed when the server has started, for the person in front of it.

use myelin_env::Random;
use ruma::ServerName;

/// The address, and as long as there is no account, how to make the first one, a room and a message.
pub(crate) fn text(
    base_url: &str,
    server_name: &ServerName,
    first_account_token: Option<&str>,
    random: &Random,
) -> String {
    let mut text = format!("\nMyelin serves {server_name} at {base_url}\n");
    if server_name.as_str() == "localhost" {
        text.push_str(
            "\nThe server's name is \"localhost\". It is permanent once the server has talked to others:\n\
             set server_name in the configuration to your domain before that.\n",
        );
    }
    let Some(token) = first_account_token else {
        return text;
    };
    let password = random.alphanumeric(16);
    let take = |field: &str| format!(r#"sed -n 's/.*"{field}":"\([^"]*\)".*/\1/p'"#);
    let (access_token, room_id) = (take("access_token"), take("room_id"));
    text.push_str(&format!(
        r#"
There is no account yet. The first one administers the server; it needs this registration token, once:

    {token}

Register, for instance alice with a password made for you; create a room; send a message:

ACCESS_TOKEN=$(curl -s {base_url}/_matrix/client/v3/register -H 'Content-Type: application/json' -d '{{"username":"alice","password":"{password}","auth":{{"type":"m.login.registration_token","token":"{token}"}}}}' | {access_token})
ROOM=$(curl -s {base_url}/_matrix/client/v3/createRoom -H "Authorization: Bearer $ACCESS_TOKEN" -H 'Content-Type: application/json' -d '{{"name":"First room"}}' | {room_id})
curl -X PUT {base_url}/_matrix/client/v3/rooms/$ROOM/send/m.room.message/1 -H "Authorization: Bearer $ACCESS_TOKEN" -H 'Content-Type: application/json' -d '{{"msgtype":"m.text","body":"Hello"}}'

Or give {base_url} as the homeserver to any Matrix client.
"#
    ));
    text
}
