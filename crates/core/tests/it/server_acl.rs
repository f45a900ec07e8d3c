//! Which servers a list lets in.

use myelin_core::server_acl::ServerAcl;
use ruma::ServerName;
use serde_json::{Value, json, value::to_raw_value};

fn allowed(content: &Value, servers: &[&str]) -> Vec<bool> {
    let acl = ServerAcl::read(&to_raw_value(content).unwrap());
    servers
        .iter()
        .map(|server| acl.allows(&ServerName::parse(server).unwrap()))
        .collect()
}

#[test]
fn a_server_is_let_in_that_is_allowed_and_not_denied() {
    let servers = [
        "good.example",
        "evil.example",
        "sub.evil.example",
        "1.2.3.4:8448",
        "[::1]",
    ];
    for (content, expected) in [
        (json!({"allow": ["*"]}), [true, true, true, true, true]),
        (
            json!({"allow": ["*"], "deny": ["evil.example"]}),
            [true, false, true, true, true],
        ),
        (
            json!({"allow": ["*"], "deny": ["*.evil.example"]}),
            [true, true, false, true, true],
        ),
        (
            json!({"allow": ["*"], "deny": ["*evil.example"]}),
            [true, false, false, true, true],
        ),
        (
            json!({"allow": ["????.example"]}),
            [true, true, false, false, false],
        ),
        (
            json!({"allow": ["*"], "allow_ip_literals": false}),
            [true, true, true, false, false],
        ),
        // Denial outweighs.
        (
            json!({"allow": ["good.example"], "deny": ["good.example"]}),
            [false; 5],
        ),
        // Nobody is allowed.
        (json!({}), [false; 5]),
        (json!({"allow": [], "deny": []}), [false; 5]),
    ] {
        assert_eq!(allowed(&content, &servers), expected, "{content}");
    }
}

#[test]
fn neither_port_nor_case_matters_and_a_dot_is_a_dot() {
    let content = json!({"allow": ["*"], "deny": ["EVIL.example", "1.2.3.4"]});
    let servers = ["evil.EXAMPLE:8448", "evilxexample", "1.2.3.4:1", "1x2.3.4"];
    assert_eq!(allowed(&content, &servers), [false, true, false, true]);
}

#[test]
fn what_is_malformed_is_not_there_and_the_rest_holds() {
    for (content, expected) in [
        (
            json!({"allow": ["*"], "deny": "evil.example"}),
            [true, true],
        ),
        (
            json!({"allow": ["*"], "deny": [7, null, "evil.example"]}),
            [true, false],
        ),
        (
            json!({"allow": [7, "good.example"], "deny": []}),
            [true, false],
        ),
        (json!({"allow": "*"}), [false, false]),
        (
            json!({"allow": ["*"], "allow_ip_literals": "no"}),
            [true, true],
        ),
    ] {
        let servers = ["good.example", "evil.example"];
        assert_eq!(allowed(&content, &servers), expected, "{content}");
    }
}
