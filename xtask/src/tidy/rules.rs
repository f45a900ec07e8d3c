//! The "must not" column: words that may stand in some crates only, and what holds for every file.

use super::Violation;
use super::tree::{File, Package, Tree};

/// Where a rule applies.
enum Scope {
    In(&'static [&'static str]),
    Outside(&'static [&'static str]),
}

/// Words which may not stand in the code of some crates (tests excepted).
struct Rule {
    scope: Scope,
    words: &'static [&'static str],
    why: &'static str,
}

const RULES: &[Rule] = &[
    Rule {
        scope: Scope::In(&["core"]),
        words: &["async", ".await"],
        why: "core is pure: nothing in it waits",
    },
    Rule {
        scope: Scope::In(&["core"]),
        words: &[
            "std::fs",
            "std::net",
            "std::process",
            "std::env",
            "std::thread",
            "SystemTime",
            "Instant",
        ],
        why: "core is pure: no I/O, no clock, no threads",
    },
    Rule {
        scope: Scope::Outside(&["storage"]),
        words: &["rusqlite", "tokio_postgres", "deadpool_postgres"],
        why: "only storage speaks SQL",
    },
    Rule {
        scope: Scope::Outside(&["env", "federation"]),
        words: &[
            "TcpStream::connect",
            "UnixStream::connect",
            "client::conn",
            "client::legacy",
            "hyper::client",
        ],
        why: "only federation connects out, over the network that env gives it",
    },
    Rule {
        scope: Scope::In(&["core", "storage", "rooms", "users", "sync"]),
        words: &["StatusCode", "http"],
        why: "HTTP status codes are api's: errors say what the caller must do",
    },
    Rule {
        scope: Scope::Outside(&["env"]),
        words: &[
            "tokio::spawn",
            "task::spawn",
            "spawn_blocking",
            "spawn_local",
            "JoinSet",
        ],
        why: "tasks are env's: myelin_env::Tasks tracks them",
    },
    Rule {
        // SQLite blocks the thread it runs on: storage keeps threads for it, and nothing else does.
        scope: Scope::Outside(&["env", "storage"]),
        words: &[
            "thread::spawn",
            "thread::Builder",
            "thread::scope",
            "runtime::Handle",
        ],
        why: "threads are env's and storage's",
    },
    Rule {
        scope: Scope::Outside(&["api", "server"]),
        words: &["axum"],
        why: "handlers live in api",
    },
    Rule {
        scope: Scope::In(&["sync"]),
        words: &["Priority", ".execute"],
        why: "sync reads: it may not write",
    },
    Rule {
        scope: Scope::In(&["env"]),
        words: &["ruma", "matrix"],
        why: "env knows no Matrix",
    },
];

/// How an SQL statement begins. Lower-case words are prose, statements are written in capitals.
const SQL: &[&str] = &[
    "SELECT ",
    "INSERT INTO ",
    "UPDATE ",
    "DELETE FROM ",
    "CREATE ",
    "ALTER ",
    "WITH RECURSIVE ",
    "PRAGMA ",
];

/// Names that say nothing about what a module holds.
const EMPTY_NAMES: &[&str] = &[
    "util", "utils", "common", "helper", "helpers", "manager", "managers", "service", "services",
];

/// Crates which are not part of the product.
const FREE: &[&str] = &["sim", "bench", "testbed", "xtask"];

/// Nine of ten files may be this long at most.
const LONG_FILE: usize = 400;

/// Checks every file of every crate.
pub(super) fn check(tree: &Tree) -> Vec<Violation> {
    let mut violations = long_files(tree);
    for package in &tree.packages {
        for file in &package.sources {
            violations.extend(check_docs(file));
            violations.extend(check_names(file));
            // A file that only tests include is not part of the product.
            if !FREE.contains(&package.short()) && !file.path.ends_with("tests.rs") {
                violations.extend(check_words(package, file));
                violations.extend(check_sql(package, file));
            }
        }
    }
    violations
}

fn check_words(package: &Package, file: &File) -> Vec<Violation> {
    let short = package.short();
    let applies = |rule: &&Rule| match rule.scope {
        Scope::In(crates) => crates.contains(&short),
        Scope::Outside(crates) => !crates.contains(&short),
    };
    let mut violations = Vec::new();
    for rule in RULES.iter().filter(applies) {
        for word in rule.words {
            let found = file.source.lines_with(word);
            violations.extend(
                found.into_iter().map(|line| {
                    Violation::new(&file.path, line, format!("`{word}`: {}", rule.why))
                }),
            );
        }
    }
    violations
}

fn check_sql(package: &Package, file: &File) -> Vec<Violation> {
    if package.short() == "storage" {
        return Vec::new();
    }
    let is_sql = |text: &str| SQL.iter().any(|start| text.trim_start().starts_with(start));
    let statements = file.source.strings.iter().filter(|(_, text)| is_sql(text));
    statements
        .map(|(line, _)| {
            Violation::new(
                &file.path,
                *line,
                "an SQL statement: only storage speaks SQL",
            )
        })
        .collect()
}

fn check_docs(file: &File) -> Option<Violation> {
    let first = file
        .text
        .lines()
        .find(|line| !line.trim().is_empty() && !line.starts_with("#!["));
    let documented = first.is_some_and(|line| line.starts_with("//!"));
    (!documented).then(|| {
        Violation::new(
            &file.path,
            1,
            "the file does not begin with `//!` documentation of what it holds",
        )
    })
}

fn check_names(file: &File) -> Vec<Violation> {
    let empty = |name: &str| {
        name.split('_')
            .find(|part| EMPTY_NAMES.contains(part))
            .map(str::to_owned)
    };
    let complain = |line, part: String| {
        Violation::new(
            &file.path,
            line,
            format!("a module named `{part}` says nothing: name what it holds"),
        )
    };
    let mut violations = Vec::new();
    for component in &file.module_path {
        let name = component.to_string_lossy();
        violations
            .extend(empty(name.strip_suffix(".rs").unwrap_or(&name)).map(|part| complain(1, part)));
    }
    for (index, line) in file.source.code.lines().enumerate() {
        let mut words = line.split_whitespace().skip_while(|word| *word != "mod");
        let name = words
            .nth(1)
            .unwrap_or_default()
            .trim_end_matches(['{', ';']);
        violations.extend(empty(name).map(|part| complain(index + 1, part)));
    }
    violations
}

/// If more than a tenth of the files are long, all long ones are named.
fn long_files(tree: &Tree) -> Vec<Violation> {
    let files: Vec<&File> = tree
        .packages
        .iter()
        .flat_map(|package| &package.sources)
        .collect();
    let long: Vec<&&File> = files
        .iter()
        .filter(|file| file.text.lines().count() > LONG_FILE)
        .collect();
    if long.len() * 10 <= files.len() {
        return Vec::new();
    }
    let message = format!("one of more than a tenth of all files with over {LONG_FILE} lines");
    long.iter()
        .map(|file| Violation::new(&file.path, file.text.lines().count(), message.clone()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::tree::fixture::tree;
    use super::{FREE, check};

    /// Each rule with a crate and a line which breaks it.
    const FORBIDDEN: &[(&str, &str)] = &[
        ("core", "async fn decide() {}"),
        ("core", "fn decide() { load().await; }"),
        ("core", "use std::fs;"),
        ("core", "fn now() -> std::time::SystemTime { todo() }"),
        ("rooms", "use rusqlite::Connection;"),
        ("api", "fn f() { query(\"SELECT 1 FROM events\") }"),
        (
            "rooms",
            "const Q: &str = \"\n    INSERT INTO events VALUES ($1)\";",
        ),
        ("rooms", "fn f() { TcpStream::connect(a) }"),
        ("api", "use hyper_util::client::legacy::Client;"),
        ("rooms", "use ruma::exports::http::StatusCode;"),
        ("users", "fn f() -> http::Response { g() }"),
        ("sync", "fn f() { StatusCode::OK }"),
        ("rooms", "fn f() { tokio::spawn(g()) }"),
        ("api", "fn f() { tokio::task::spawn(g()) }"),
        ("server", "fn f() { std::thread::spawn(g) }"),
        ("storage", "fn f() { tokio::task::spawn_blocking(g) }"),
        ("users", "use axum::Json;"),
        (
            "sync",
            "fn f(db: &Database) { db.write(\"x\", Priority::Bulk) }",
        ),
        ("env", "use ruma::UserId;"),
        ("rooms", "mod room_util;"),
        ("rooms", "mod service { }"),
    ];

    #[test]
    fn each_rule_fires() {
        for (name, text) in FORBIDDEN {
            let violations = check(&tree(name, &[], &[("lib.rs", text)]));
            assert!(!violations.is_empty(), "{name}: {text}");
        }
    }

    #[test]
    fn the_same_words_pass_where_they_belong() {
        let allowed = [
            (
                "storage",
                "use rusqlite::Connection; const Q: &str = \"SELECT 1\";",
            ),
            (
                "federation",
                "use hyper::client::conn::http1; async fn f() { g().await }",
            ),
            ("env", "fn f() { tokio::spawn(g()); TcpStream::connect(a) }"),
            ("api", "use axum::http::StatusCode;"),
            (
                "rooms",
                "fn f() { env.tasks.spawn(\"join\", g()) } // tokio::spawn would not be tracked",
            ),
            (
                "rooms",
                "#[cfg(test)]\nmod tests { fn f() { db(\"SELECT 1\") } }",
            ),
            ("rooms", "const TEXT: &str = \"Select a room\";"),
        ];
        for (name, text) in allowed {
            let violations = check(&tree(name, &[], &[("lib.rs", text)]));
            assert!(violations.is_empty(), "{name}: {violations:?}");
        }
        for name in FREE {
            assert!(
                check(&tree(
                    name,
                    &[],
                    &[("lib.rs", "fn f() { tokio::spawn(g(\"SELECT 1\")) }")]
                ))
                .is_empty()
            );
        }
    }

    #[test]
    fn files_are_named_after_what_they_hold() {
        for path in [
            "util.rs",
            "http_helpers.rs",
            "services/join.rs",
            "event/common.rs",
        ] {
            assert_eq!(check(&tree("rooms", &[], &[(path, "")])).len(), 1, "{path}");
        }
        assert!(check(&tree("rooms", &[], &[("commonly.rs", "")])).is_empty());
    }

    #[test]
    fn files_say_what_they_hold() {
        let mut tree = tree("rooms", &[], &[("join.rs", "")]);
        "#![allow(x)]\n\n//! Joins.\n".clone_into(&mut tree.packages[0].sources[0].text);
        assert!(check(&tree).is_empty());
        "use a;\n//! Joins.\n".clone_into(&mut tree.packages[0].sources[0].text);
        assert_eq!(check(&tree).len(), 1);
    }

    #[test]
    fn most_files_are_short() {
        let long = "fn f() {}\n".repeat(500);
        let mut files = vec![("a.rs", long.as_str())];
        assert_eq!(check(&tree("rooms", &[], &files)).len(), 1);
        files.extend(std::iter::repeat_n(("b.rs", ""), 9));
        assert!(check(&tree("rooms", &[], &files)).is_empty());
    }
}
