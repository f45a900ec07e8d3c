//! `cargo xtask tidy`: the structure that ARCHITECTURE.md promises, checked.
//!
//! Each check takes the whole [`Tree`] and answers with violations; a test shows for each rule
//! a tree which breaks it. What clippy can check (function length, parameters, docs) is left to
//! clippy.

mod cycles;
mod edges;
mod manifests;
mod rules;
mod tree;

use std::fmt;
use std::path::{Path, PathBuf};

use tree::Tree;

/// A place which breaks a rule.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Violation {
    /// Relative to the workspace.
    file: PathBuf,
    /// Counted from 1.
    line: usize,
    message: String,
}

impl Violation {
    fn new(file: &Path, line: usize, message: impl Into<String>) -> Self {
        Self {
            file: file.to_path_buf(),
            line,
            message: message.into(),
        }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.file.display(), self.line, self.message)
    }
}

/// Checks the workspace at `root` and prints each violation.
pub(crate) fn run(root: &Path) -> Result<(), String> {
    let tree = Tree::load(root)?;
    let violations = check(&tree);
    for violation in &violations {
        println!("{violation}");
    }
    match violations.len() {
        0 => {
            let files: usize = tree
                .packages
                .iter()
                .map(|package| package.sources.len())
                .sum();
            println!(
                "tidy: {} crates, {files} files, nothing to complain about",
                tree.packages.len()
            );
            Ok(())
        }
        count => Err(format!("tidy: {count} violations")),
    }
}

/// All violations, sorted by place.
fn check(tree: &Tree) -> Vec<Violation> {
    let mut violations = edges::check(tree);
    violations.extend(manifests::check(tree));
    violations.extend(rules::check(tree));
    violations.extend(cycles::check(tree));
    violations.sort();
    violations.dedup();
    violations
}

#[cfg(test)]
mod tests {
    use super::tree::Tree;
    use super::{Path, check};

    /// The tree as it stands, with one edge too many: the proof that the edges are really read
    /// from the manifests and that the check would notice.
    #[test]
    fn a_forbidden_edge_in_the_real_tree_is_noticed() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let mut tree = Tree::load(&root).unwrap();
        let before = check(&tree).len();
        let rooms = tree
            .packages
            .iter_mut()
            .find(|package| package.name == "myelin-rooms")
            .unwrap();
        rooms.dependencies.push("myelin-api".to_owned());
        let violations = check(&tree);
        assert_eq!(violations.len(), before + 1);
        assert!(
            violations
                .iter()
                .any(|v| v.message.contains("rooms may not depend on api")),
            "{violations:?}"
        );
    }

    /// The same from files: a workspace of two crates with an edge against the order.
    #[test]
    fn a_forbidden_edge_in_a_manifest_is_noticed() {
        let directory = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = directory.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        write(
            "Cargo.toml",
            "[workspace]\nresolver = \"3\"\nmembers = [\"crates/*\"]\n[workspace.dependencies]\nmyelin-rooms = { path = \"crates/rooms\" }\n[workspace.lints.rust]\nunsafe_code = \"deny\"\n",
        );
        let package = |name: &str| {
            format!(
                "[package]\nname = \"myelin-{name}\"\nedition = \"2024\"\n[lints]\nworkspace = true\n"
            )
        };
        write(
            "crates/core/Cargo.toml",
            &(package("core") + "[dependencies]\nmyelin-rooms.workspace = true\n"),
        );
        write("crates/core/src/lib.rs", "//! Core.\n");
        write("crates/rooms/Cargo.toml", &package("rooms"));
        write("crates/rooms/src/lib.rs", "//! Rooms.\n");
        let violations = check(&Tree::load(directory.path()).unwrap());
        let texts: Vec<String> = violations.iter().map(ToString::to_string).collect();
        assert_eq!(
            texts,
            [
                "crates/core/Cargo.toml:7: core may not depend on rooms: the order of the crates is one way"
            ]
        );
    }
}
