//! Which crate may depend on which, and on which crates from outside.

use super::Violation;
use super::tree::{Package, Tree};

/// Each crate of the product with those it may use, in the order of ARCHITECTURE.md.
/// `env` comes after `core` in the picture but knows no Matrix, so it may not use it.
const ORDER: &[(&str, &[&str])] = &[
    ("core", &[]),
    ("env", &[]),
    ("storage", &["core", "env"]),
    ("federation", &["core", "env", "storage"]),
    ("rooms", &["core", "env", "storage", "federation"]),
    ("users", &["core", "env", "storage", "federation"]),
    (
        "sync",
        &["core", "env", "storage", "federation", "rooms", "users"],
    ),
    (
        "api",
        &[
            "core",
            "env",
            "storage",
            "federation",
            "rooms",
            "users",
            "sync",
        ],
    ),
    (
        "server",
        &[
            "core",
            "env",
            "storage",
            "federation",
            "rooms",
            "users",
            "sync",
            "api",
        ],
    ),
];

/// Programs beside the product: they may use everything, and nothing of the product uses them.
const FREE: &[&str] = &["sim", "bench", "fuzz", "testbed", "xtask"];

/// The program beside the product that the tests of `server` use, and only they.
const TESTBED: &str = "testbed";

/// An outside crate (or all whose name starts so, with `*`), where it may be used, and why.
const OUTSIDE: &[(&str, &[&str], &str)] = &[
    ("rusqlite", &["storage"], "only storage speaks SQL"),
    ("tokio-postgres", &["storage"], "only storage speaks SQL"),
    ("deadpool-postgres", &["storage"], "only storage speaks SQL"),
    (
        "hickory-resolver",
        &["federation"],
        "only federation finds other servers",
    ),
    ("axum", &["api", "server"], "handlers live in api"),
    ("tower-http", &["api", "server"], "handlers live in api"),
    (
        "hyper",
        &["env", "federation", "api", "server"],
        "rooms, users and sync know no HTTP",
    ),
    (
        "hyper-util",
        &["env", "federation", "api", "server"],
        "rooms, users and sync know no HTTP",
    ),
    (
        "http",
        &["env", "federation", "api", "server"],
        "rooms, users and sync know no HTTP",
    ),
    ("rand", &["env"], "randomness comes from env"),
    ("getrandom", &["env"], "randomness comes from env"),
    (
        "tokio",
        &[
            "env",
            "storage",
            "federation",
            "rooms",
            "users",
            "sync",
            "api",
            "server",
        ],
        "core is pure",
    ),
    (
        "futures-util",
        &[
            "env",
            "storage",
            "federation",
            "rooms",
            "users",
            "sync",
            "api",
            "server",
        ],
        "core is pure",
    ),
    (
        "tokio-rustls",
        &["federation", "server", "storage"],
        "only federation connects out, only server listens, storage goes to its database",
    ),
    (
        "rustls",
        &["federation", "server", "storage"],
        "only federation connects out, only server listens, storage goes to its database",
    ),
    ("clap", &["server"], "the command line is the program's"),
    (
        "toml",
        &["server"],
        "the configuration file is the program's",
    ),
    (
        "opentelemetry",
        &["env", "server"],
        "spans are those of tracing, and only server exports them",
    ),
    (
        "tracing-opentelemetry",
        &["env", "server"],
        "spans are those of tracing, and only server exports them",
    ),
    (
        "reqwest",
        &[],
        "federation has its own client over env's network",
    ),
    (
        "sqlx",
        &[],
        "its threads make simulated time irreproducible",
    ),
    ("openssl", &[], "TLS is rustls"),
    ("native-tls", &[], "TLS is rustls"),
    (
        "async-trait",
        &[],
        "the language has async functions in traits",
    ),
];

/// Finds edges against the order, crates without a place in it, and outside crates in the wrong place.
pub(super) fn check(tree: &Tree) -> Vec<Violation> {
    tree.packages
        .iter()
        .filter(|package| !FREE.contains(&package.short()))
        .flat_map(check_package)
        .collect()
}

fn check_package(package: &Package) -> Vec<Violation> {
    let short = package.short();
    let Some((_, allowed)) = ORDER.iter().find(|(name, _)| *name == short) else {
        let message = format!(
            "crate {short} has no place in the order of the crates (xtask/src/tidy/edges.rs)"
        );
        return vec![Violation::new(&package.manifest, 1, message)];
    };
    let mut violations = Vec::new();
    let mut complain = |dependency: &str, message: String| {
        violations.push(Violation::new(
            &package.manifest,
            package.line_of(dependency),
            message,
        ));
    };
    for dependency in package
        .dependencies
        .iter()
        .chain(&package.test_dependencies)
    {
        if let Some(other) = dependency.strip_prefix("myelin-")
            && !allowed.contains(&other)
            && !is_own_test_feature(package, dependency)
            && !is_testbed_of_server(package, dependency)
        {
            complain(
                dependency,
                format!("{short} may not depend on {other}: the order of the crates is one way"),
            );
        }
    }
    // Outside crates are free for tests, which are not part of the product.
    for dependency in &package.dependencies {
        if dependency.starts_with("ruma") && short == "env" {
            complain(
                dependency,
                format!("env may not depend on {dependency}: it knows no Matrix"),
            );
        } else if let Some((_, places, why)) =
            OUTSIDE.iter().find(|(name, _, _)| name == dependency)
            && !places.contains(&short)
        {
            complain(
                dependency,
                format!("{short} may not depend on {dependency}: {why}"),
            );
        }
    }
    violations
}

/// A crate's tests may name the crate itself, to turn on a feature that other crates' tests use.
fn is_own_test_feature(package: &Package, dependency: &str) -> bool {
    *dependency == package.name && !package.dependencies.iter().any(|name| name == dependency)
}

/// Whole servers are tested in surroundings that benchmarks need too.
fn is_testbed_of_server(package: &Package, dependency: &str) -> bool {
    package.short() == "server"
        && dependency.strip_prefix("myelin-") == Some(TESTBED)
        && !package.dependencies.iter().any(|name| name == dependency)
}

#[cfg(test)]
mod tests {
    use super::super::tree::fixture::{package, tree};
    use super::{FREE, ORDER, Tree, check};

    /// Every pair of crates: exactly the edges of the picture pass.
    #[test]
    fn only_edges_to_the_left_pass() {
        let names = || ORDER.iter().map(|(name, _)| *name);
        for (name, allowed) in ORDER {
            for other in names().filter(|other| other != name) {
                let dependency = format!("myelin-{other}");
                let violations = check(&tree(name, &[&dependency], &[]));
                assert_eq!(
                    violations.is_empty(),
                    allowed.contains(&other),
                    "{name} -> {other}: {violations:?}"
                );
            }
        }
        assert!(!check(&tree("rooms", &["myelin-users"], &[])).is_empty());
        assert!(!check(&tree("users", &["myelin-rooms"], &[])).is_empty());
        assert!(!check(&tree("env", &["myelin-core"], &[])).is_empty());
    }

    #[test]
    fn programs_beside_the_product_may_use_it_but_not_the_reverse() {
        for free in FREE {
            assert!(check(&tree(free, &["myelin-api", "rusqlite"], &[])).is_empty());
            let dependency = format!("myelin-{free}");
            assert!(!check(&tree("server", &[&dependency], &[])).is_empty());
        }
    }

    #[test]
    fn outside_crates_stay_in_their_places() {
        let forbidden = [
            ("core", "tokio"),
            ("core", "hyper"),
            ("core", "rusqlite"),
            ("core", "rand"),
            ("env", "ruma"),
            ("rooms", "rusqlite"),
            ("rooms", "http"),
            ("users", "axum"),
            ("sync", "axum"),
            ("api", "tokio-postgres"),
            ("rooms", "hyper-util"),
            ("federation", "reqwest"),
        ];
        for (name, dependency) in forbidden {
            let violations = check(&tree(name, &["serde", dependency], &[]));
            assert_eq!(violations.len(), 1, "{name} -> {dependency}");
            assert_eq!(
                violations[0].line, 4,
                "the line of the manifest that names it"
            );
        }
        assert!(
            check(&tree(
                "storage",
                &["rusqlite", "tokio-postgres", "tokio"],
                &[]
            ))
            .is_empty()
        );
    }

    #[test]
    fn tests_keep_the_order_but_may_use_outside_crates() {
        let mut tree = tree("rooms", &[], &[]);
        tree.packages[0].test_dependencies = vec!["rand".to_owned(), "axum".to_owned()];
        assert!(check(&tree).is_empty());
        tree.packages[0]
            .test_dependencies
            .push("myelin-api".to_owned());
        assert_eq!(check(&tree).len(), 1);
    }

    #[test]
    fn a_new_crate_needs_a_place() {
        let violations = check(&Tree {
            packages: vec![package("media", &[], &[])],
        });
        assert!(violations[0].message.contains("no place"));
    }
}
