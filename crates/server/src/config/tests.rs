//! What the configuration takes and what it refuses.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
};

use super::{Config, LogFormat, documented_file, load, parse, reference};

fn read(text: &str, variables: &[(&str, &str)]) -> Result<Config, String> {
    let variables = variables.iter();
    let variables = variables.map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    parse(text, Path::new("m.toml"), variables).map_err(|error| error.to_string())
}

#[test]
fn the_documented_file_holds_the_defaults() {
    let file = documented_file(&Config::default());
    assert_eq!(read(&file, &[]).unwrap(), Config::default());
    assert_eq!(read("", &[]).unwrap(), Config::default());
}

#[test]
fn the_page_about_the_configuration_is_what_the_program_says() {
    let page = include_str!("../../../../docs/configuration.md");
    assert!(
        page == reference(),
        "run: cargo run -- config reference > docs/configuration.md"
    );
}

#[test]
fn a_file_that_cannot_be_read_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let missing = directory.path().join("m.toml");
    let no_text = directory.path().join("n.toml");
    std::fs::write(&no_text, [0xff, 0xfe]).unwrap();
    for (path, expected) in [
        (missing.as_path(), "No such file"),
        (directory.path(), "Is a directory"),
        (no_text.as_path(), "valid UTF-8"),
    ] {
        let refused = load(path).unwrap_err();
        assert_eq!(refused.place, path.display().to_string());
        assert!(refused.message.contains(expected), "{refused}");
    }
}

#[test]
fn the_documented_examples_are_valid() {
    // What stands behind "# " and looks like a key is a key that has no default.
    let uncommented: String = documented_file(&Config::default())
        .lines()
        .map(|line| match line.strip_prefix("# ") {
            Some(key) if key.split(' ').nth(1) == Some("=") => format!("{key}\n"),
            _ => format!("{line}\n"),
        })
        .collect();
    let config = read(&uncommented, &[]).unwrap();
    assert!(config.public_base_url.is_some() && config.database.url.is_some());
    assert!(config.registration.shared_secret.is_some());
    assert!(config.traces.collector.is_some());
    assert!(config.listeners[0].tls.is_some());
}

/// A file, and a part of what is said about it.
const REFUSED: &[(&str, &str)] = &[
    (
        "server_nam = \"x\"",
        "m.toml:1:1: unknown field `server_nam`, expected one of `server_name`",
    ),
    (
        "\n\nserver_name = 5",
        "m.toml:3:15: invalid type: integer `5`, expected",
    ),
    ("server_name = \"no spaces\"", "m.toml:1:15: "),
    (
        "data_dir = true",
        "m.toml:1:12: invalid type: boolean `true`, expected path string",
    ),
    (
        "default_room_version = \"13\"",
        "m.toml:1:24: unknown room version \"13\", expected one of \"1\", \"2\", \"3\", \"4\", \"5\", \"6\", \"7\", \"8\", \"9\", \"10\", \"11\", \"12\"",
    ),
    (
        "public_base_url = \"example.org\"",
        "m.toml:1:19: \"example.org\" is no address, expected https://NAME",
    ),
    ("[database]\nurl = \"mysql://x\"", "m.toml:2:7: "),
    (
        "[database]\nurl = \"mysql://x\"",
        "sqlite:PATH or postgres://",
    ),
    ("[databas]", "m.toml:1:2: unknown field `databas`"),
    (
        "[registration]\nenabled = \"yes\"",
        "m.toml:2:11: invalid type: string \"yes\", expected a boolean",
    ),
    (
        "[registration]\nshared_secret = \"\"",
        "expected a long random text",
    ),
    (
        "[[listeners]]\naddress = \"localhost\"",
        "m.toml:2:11: \"localhost\" is no address, expected IP:PORT",
    ),
    ("[[listeners]]\nresources = []", "missing field `address`"),
    (
        "[[listeners]]\naddress = \"127.0.0.1:1\"\nresources = []",
        "a listener without resources",
    ),
    (
        "[[listeners]]\naddress = \"127.0.0.1:1\"\nresources = [\"admin\"]",
        "m.toml:3:14: unknown variant `admin`, expected `client` or `federation`",
    ),
    (
        "[[listeners]]\naddress = \"127.0.0.1:1\"\ntls_key = \"k\"",
        "expected both tls_certificate and tls_key",
    ),
    (
        "[[listeners]]\naddress = \"127.0.0.1:1\"\nport = 1",
        "m.toml:3:1: unknown field `port`",
    ),
    (
        "[federation]\ntrusted_key_servers = [\"\"]",
        "m.toml:2:23: ",
    ),
    ("[log]\nfilter = \"a=b=c\"", "m.toml:2:10: "),
    (
        "[log]\nformat = \"xml\"",
        "m.toml:2:10: unknown variant `xml`, expected `text` or `json`",
    ),
    (
        "[traces]\ncollector = \"127.0.0.1:4318\"",
        "m.toml:2:13: \"127.0.0.1:4318\" is no collector, expected http://HOST:PORT",
    ),
    (
        "[traces]\ncollector = \"https://collector.example\"",
        "expected http://HOST:PORT, for instance \"http://127.0.0.1:4318\"",
    ),
    (
        "[traces]\ncollector = \"http://127.0.0.1:4318/v1/traces\"",
        "is no collector",
    ),
    (
        "[traces]\nsample_ratio = 2",
        "m.toml:2:16: 2 is no part of the requests, expected a number from 0 to 1",
    ),
    ("[traces]\nsample_ratio = nan", "NaN is no part of"),
    (
        "[traces]\nsample_ratio = \"all\"",
        "m.toml:2:16: invalid type: string \"all\", expected f64",
    ),
    ("server_name = ", "m.toml:1:"),
    ("a = 1\na = 2", "m.toml:2:1: duplicate key"),
];

#[test]
fn what_is_wrong_is_refused_with_its_place_and_what_was_expected() {
    for (text, expected) in REFUSED {
        let refused = read(text, &[]).unwrap_err();
        assert!(
            refused.contains(expected),
            "{text}\n  {refused}\n  {expected}"
        );
        assert!(refused.starts_with("m.toml:"), "{text}\n  {refused}");
    }
}

#[test]
fn variables_override_keys_with_a_single_value() {
    let text = "server_name = \"a.example\"\n[registration]\nenabled = false";
    let config = read(
        text,
        &[
            ("MYELIN_SERVER_NAME", "b.example"),
            ("MYELIN_REGISTRATION__ENABLED", "true"),
            ("MYELIN_REGISTRATION__SHARED_SECRET", "12345"),
            ("MYELIN_DEFAULT_ROOM_VERSION", "11"),
            ("MYELIN_LOG__FORMAT", "json"),
            ("MYELIN_TRACES__SAMPLE_RATIO", "0.25"),
            ("MYELIN_TRACES__COLLECTOR", "http://[::1]"),
            ("MYELIN_TEST_SOMETHING", "is not ours"),
            ("SERVER_NAME", "is not ours"),
        ],
    )
    .unwrap();
    assert_eq!(config.server_name, "b.example");
    assert!(config.registration.enabled);
    assert_eq!(config.registration.shared_secret.as_deref(), Some("12345"));
    assert_eq!(config.default_room_version.as_str(), "11");
    assert_eq!(config.log.format, LogFormat::Json);
    assert_eq!(config.traces.sample_ratio.get(), 0.25);
    let collector = config.traces.collector.unwrap();
    assert_eq!(collector.url("/x"), "http://[::1]:4318/x");
}

#[test]
fn wrong_variables_are_refused_by_name() {
    let cases = [
        (
            "MYELIN_SERVERNAME",
            "x",
            "unknown field `servername`, expected one of",
        ),
        ("MYELIN_REGISTRATION__ENABLED", "yes", "expected a boolean"),
        ("MYELIN_REGISTRATION__ENABLED", "1", "expected a boolean"),
        (
            "MYELIN_REGISTRATION",
            "x",
            "only keys with a single value can be overridden",
        ),
        (
            "MYELIN_LISTENERS__ADDRESS",
            "x",
            "only keys with a single value can be overridden",
        ),
        ("MYELIN_DATABASE__URL", "x", "sqlite:PATH or postgres://"),
        (
            "MYELIN_SERVER_NAME__X",
            "x",
            "only keys with a single value can be overridden",
        ),
        (
            "MYELIN_FEDERATION__TRUSTED_KEY_SERVERS",
            "x",
            "expected a sequence",
        ),
    ];
    let text = "server_name = \"a\"\n[registration]\n[[listeners]]\naddress = \"127.0.0.1:1\"";
    for (name, value, expected) in cases {
        let refused = read(text, &[(name, value)]).unwrap_err();
        assert!(refused.starts_with(&format!("{name}: ")), "{refused}");
        assert!(refused.contains(expected), "{name}: {refused}");
    }
}

#[test]
fn paths_count_from_the_file() {
    let text = "data_dir = \"d\"\n[database]\nurl = \"sqlite:x.db\"\n[federation]\nextra_ca_certificates = [\"ca.pem\", \"/ca.pem\"]\n[[listeners]]\naddress = \"127.0.0.1:0\"\ntls_certificate = \"c.pem\"\ntls_key = \"k.pem\"";
    let mut config = read(text, &[]).unwrap();
    config.resolve_paths(Path::new("/etc/myelin"));
    assert_eq!(config.data_dir, Path::new("/etc/myelin/d"));
    assert_eq!(
        config.signing_key_file(),
        Path::new("/etc/myelin/d/signing.key")
    );
    assert_eq!(config.database_url(), "sqlite:/etc/myelin/x.db");
    let authorities = ["/etc/myelin/ca.pem", "/ca.pem"].map(PathBuf::from);
    assert_eq!(config.federation.extra_ca_certificates, authorities);
    let tls = config.listeners[0].tls.as_ref().unwrap();
    assert_eq!(tls.key, Path::new("/etc/myelin/k.pem"));
    config.database.url = None;
    assert_eq!(config.database_url(), "sqlite:/etc/myelin/d/myelin.db");
}

#[test]
fn a_listener_serves_what_it_is_told_to() {
    let text = "[[listeners]]\naddress = \"[::1]:8448\"\nresources = [\"federation\"]";
    let listener = &read(text, &[]).unwrap().listeners[0];
    assert_eq!(
        listener.address,
        "[::1]:8448".parse::<SocketAddr>().unwrap()
    );
    assert!(listener.federation && !listener.client && listener.tls.is_none());
}
