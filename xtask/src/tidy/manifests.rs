//! Rules for manifests: versions stand in the workspace's manifest only, and every crate takes
//! the workspace's lints.

use super::Violation;
use super::tree::{Package, Tree};

/// Finds dependencies with a version of their own and crates without the workspace's lints.
pub(super) fn check(tree: &Tree) -> Vec<Violation> {
    tree.packages.iter().flat_map(check_package).collect()
}

fn check_package(package: &Package) -> Vec<Violation> {
    let mut violations = Vec::new();
    let mut section = String::new();
    let mut lints = false;
    for (index, line) in package.manifest_text.lines().enumerate() {
        let line = line.split('#').next().unwrap_or_default().trim();
        if let Some(name) = line.strip_prefix('[') {
            section = name.trim_end_matches(']').to_owned();
            if section
                .rsplit_once('.')
                .is_some_and(|(parent, _)| is_dependencies(parent))
            {
                let message = "write a dependency as one line `name.workspace = true`";
                violations.push(Violation::new(&package.manifest, index + 1, message));
            }
        } else if section == "lints" && words(line) == "workspace=true" {
            lints = true;
        } else if is_dependencies(&section) && !line.is_empty() && !is_workspaces(line) {
            let message = "versions and paths of dependencies stand in the workspace's manifest: `name.workspace = true`";
            violations.push(Violation::new(&package.manifest, index + 1, message));
        }
    }
    if !lints {
        let message = "`[lints] workspace = true` is missing";
        violations.push(Violation::new(&package.manifest, 1, message));
    }
    violations
}

fn is_dependencies(section: &str) -> bool {
    section.ends_with("dependencies")
}

/// Whether a dependency is the workspace's, or the crate itself (for a feature of its own tests).
fn is_workspaces(line: &str) -> bool {
    let line = words(line);
    line.contains("workspace=true") || line.contains("path=\".\"")
}

fn words(line: &str) -> String {
    line.split_whitespace().collect()
}

#[cfg(test)]
mod tests {
    use super::super::tree::fixture::tree;
    use super::check;

    fn messages(manifest: &str) -> Vec<(usize, bool)> {
        let mut tree = tree("core", &[], &[]);
        manifest.clone_into(&mut tree.packages[0].manifest_text);
        check(&tree)
            .into_iter()
            .map(|v| (v.line, v.message.contains("lints")))
            .collect()
    }

    #[test]
    fn versions_stand_in_the_workspace() {
        const LINTS: &str = "[lints]\nworkspace = true\n";
        let with = |text: &str| messages(&format!("{LINTS}{text}"));
        assert_eq!(
            with(
                "[dependencies]\na.workspace = true\nb = { workspace = true, features = [\"x\"] }\n"
            ),
            []
        );
        assert_eq!(
            with("[dev-dependencies]\na = { path = \".\", features = [\"testing\"] }\n"),
            []
        );
        assert_eq!(with("[dependencies]\na = \"1\"\n"), [(4, false)]);
        assert_eq!(
            with("[dev-dependencies]\n# why\na = { path = \"../a\" }\n"),
            [(5, false)]
        );
        assert_eq!(
            with("[target.'cfg(unix)'.dependencies]\na = \"1\"\n"),
            [(4, false)]
        );
        assert_eq!(with("[dependencies.a]\nversion = \"1\"\n"), [(3, false)]);
    }

    #[test]
    fn every_crate_takes_the_lints_of_the_workspace() {
        assert_eq!(messages("[package]\nname = \"a\"\n"), [(1, true)]);
        assert_eq!(messages("[lints]\nworkspace = false\n"), [(1, true)]);
    }
}
