//! The contents of state events and account data that the server acts on.

use myelin_core::{
    push_rules::{read_rules, rules_content},
    relation::Relation,
    search::{Terms, words},
    server_acl::ServerAcl,
};
use ruma::{server_name, user_id};
use serde_json::value::RawValue;

/// Reads an object as each of the contents.
pub(crate) fn read(data: &[u8]) {
    rules(data);
    let Ok(json) = std::str::from_utf8(data) else {
        return;
    };
    drop(words(json));
    let _ = Terms::of(json).rank(json);
    let Ok(content) = RawValue::from_string(json.to_owned()) else {
        return;
    };
    let acl = ServerAcl::read(&content);
    for server in [
        server_name!("a.example"),
        server_name!("[::1]:8448"),
        server_name!("1.2.3.4"),
    ] {
        let _ = acl.allows(server);
    }
    drop(Relation::in_content(&content));
}

/// Push rules that were read are written so that they are read again.
fn rules(data: &[u8]) {
    let user = user_id!("@u:a.example");
    if let Ok(rules) = read_rules(user, Some(data)) {
        let written = rules_content(&rules).to_string();
        let again = read_rules(user, Some(written.as_bytes())).expect("what was written is read");
        assert_eq!(rules_content(&again).to_string(), written);
    }
}
