//! No cycles between the top-level modules of `rooms` and `users`.
//!
//! A module "uses" another when its code names `crate::other` (or `super::other` from the top
//! level), directly or through what `lib.rs` re-exports. The root itself is the crate's face:
//! what stands in `lib.rs` may name every module, and is not part of the graph.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use super::Violation;
use super::tree::{File, Package, Tree};

const CHECKED: &[&str] = &["rooms", "users"];

/// Where one module first names another.
type Edges = BTreeMap<String, BTreeMap<String, (PathBuf, usize)>>;

/// Finds module cycles; one violation for each edge that lies on one.
pub(super) fn check(tree: &Tree) -> Vec<Violation> {
    let packages = tree
        .packages
        .iter()
        .filter(|package| CHECKED.contains(&package.short()));
    packages
        .flat_map(|package| cyclic(&edges(package)))
        .collect()
}

/// The edges whose target reaches back to their source.
fn cyclic(edges: &Edges) -> Vec<Violation> {
    let mut violations = Vec::new();
    for (from, targets) in edges {
        for (to, (file, line)) in targets {
            if let Some(path) = path_between(edges, to, from) {
                let round = path.join(" -> ");
                violations.push(Violation::new(
                    file,
                    *line,
                    format!("modules in a cycle: {from} -> {round}"),
                ));
            }
        }
    }
    violations
}

/// A shortest way from one module to another.
fn path_between(edges: &Edges, from: &str, to: &str) -> Option<Vec<String>> {
    let mut ways = vec![vec![from.to_owned()]];
    let mut seen = BTreeSet::from([from.to_owned()]);
    while !ways.is_empty() {
        let mut longer = Vec::new();
        for way in ways {
            let last = way.last().cloned().unwrap_or_default();
            if last == to {
                return Some(way);
            }
            for next in edges.get(&last).into_iter().flat_map(BTreeMap::keys) {
                if seen.insert(next.clone()) {
                    longer.push([way.clone(), vec![next.clone()]].concat());
                }
            }
        }
        ways = longer;
    }
    None
}

fn edges(package: &Package) -> Edges {
    let is_root = |file: &&File| matches!(file.top_module().as_str(), "lib" | "main" | "bin");
    let modules: BTreeSet<String> = package
        .sources
        .iter()
        .filter(|file| !is_root(file))
        .map(File::top_module)
        .collect();
    let mut exports = BTreeMap::new();
    for root in package.sources.iter().filter(is_root) {
        for (_, path) in paths(&root.source.code, &["", "crate::", "self::"], true) {
            if let (Some(module), Some(name)) = (path.first(), path.last()) {
                exports.insert(name.clone(), module.clone());
            }
        }
    }
    let mut edges = Edges::new();
    for file in package.sources.iter().filter(|file| !is_root(file)) {
        let from = file.top_module();
        let prefixes: &[&str] = if file.module_path.iter().count() == 1 {
            &["crate::", "super::"]
        } else {
            &["crate::"]
        };
        for (line, path) in paths(&file.source.code, prefixes, false) {
            let first = path.first().cloned().unwrap_or_default();
            let module = if modules.contains(&first) {
                Some(first)
            } else {
                exports.get(&first).cloned()
            };
            if let Some(to) = module.filter(|to| *to != from && modules.contains(to)) {
                edges
                    .entry(from.clone())
                    .or_default()
                    .entry(to)
                    .or_insert((file.path.clone(), line));
            }
        }
    }
    edges
}

/// The paths behind any of the prefixes, with their lines. `use` trees are written out.
/// With `reexports` only those of `pub use` items.
fn paths(code: &str, prefixes: &[&str], reexports: bool) -> Vec<(usize, Vec<String>)> {
    let mut found = Vec::new();
    for prefix in prefixes {
        let mark = if reexports {
            format!("use {prefix}")
        } else {
            (*prefix).to_owned()
        };
        for (at, _) in code.match_indices(&mark) {
            let before = &code[..at];
            let whole_word =
                !before.ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':');
            let public = before.trim_end().ends_with("pub") || before.trim_end().ends_with(')');
            if whole_word && (!reexports || public) {
                let line = before.matches('\n').count() + 1;
                let mut rest = code[at + mark.len()..].chars().peekable();
                found.extend(expand(&mut rest, &[]).into_iter().map(|path| (line, path)));
            }
        }
    }
    found
}

/// Writes out one branch of a `use` tree, or a plain path: up to the first character that cannot
/// belong to it.
fn expand(
    rest: &mut std::iter::Peekable<std::str::Chars<'_>>,
    above: &[String],
) -> Vec<Vec<String>> {
    let mut path = above.to_vec();
    let mut name = String::new();
    while let Some(&c) = rest.peek() {
        match c {
            c if c.is_alphanumeric() || c == '_' || c == '*' => name.push(c),
            ':' => {
                if !name.is_empty() {
                    path.push(std::mem::take(&mut name));
                }
            }
            '{' if name.is_empty() => return expand_group(rest, &path),
            _ => break,
        }
        rest.next();
    }
    if !name.is_empty() {
        path.push(name);
    }
    vec![path]
}

fn expand_group(
    rest: &mut std::iter::Peekable<std::str::Chars<'_>>,
    above: &[String],
) -> Vec<Vec<String>> {
    let mut found = Vec::new();
    rest.next();
    loop {
        while rest.next_if(|c| c.is_whitespace() || *c == ',').is_some() {}
        match rest.peek() {
            Some('}') | None => {
                rest.next();
                return found;
            }
            Some(c) if c.is_alphanumeric() || *c == '_' || *c == '*' || *c == '{' => {
                found.extend(expand(rest, above));
            }
            // What follows a name: `as other`.
            Some(_) => {
                rest.next();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tree::fixture::tree;
    use super::check;

    fn cycles(files: &[(&str, &str)]) -> Vec<String> {
        check(&tree("rooms", &[], files))
            .into_iter()
            .map(|v| v.message)
            .collect()
    }

    #[test]
    fn one_way_passes() {
        assert!(
            cycles(&[
                ("a.rs", "use crate::b::X;"),
                ("b.rs", "use crate::c;"),
                ("c.rs", "")
            ])
            .is_empty()
        );
    }

    #[test]
    fn a_cycle_of_two_is_found_however_it_is_written() {
        let ways = [
            "use crate::a::X;",
            "use crate::{c, a::{X, Y}};",
            "fn f() { crate::a::g() }",
            "use super::a;",
            "use crate::Thing;",
        ];
        for way in ways {
            let files = [
                ("lib.rs", "mod a; mod b;\npub use a::{Other, Thing};"),
                ("a.rs", "use crate::b;"),
                ("b.rs", way),
            ];
            assert_eq!(
                cycles(&files),
                [
                    "modules in a cycle: a -> b -> a",
                    "modules in a cycle: b -> a -> b"
                ],
                "{way}"
            );
        }
    }

    #[test]
    fn a_long_cycle_through_submodules_is_found() {
        let files = [
            ("a.rs", "use crate::b;"),
            ("b/inner.rs", "use crate::c;"),
            ("c/deep/x.rs", "use crate::a;"),
        ];
        assert_eq!(cycles(&files).len(), 3);
    }

    #[test]
    fn tests_and_comments_make_no_edge() {
        let files = [
            ("a.rs", "use crate::b;"),
            (
                "b.rs",
                "// crate::a\n#[cfg(test)]\nmod tests { use crate::a; }",
            ),
        ];
        assert!(cycles(&files).is_empty());
    }

    #[test]
    fn names_inside_one_module_are_not_edges() {
        assert!(
            cycles(&[
                ("a.rs", "mod x; use crate::a::x;"),
                ("a/x.rs", "use super::b; use crate::a::Y;"),
                ("b.rs", "use crate::a;")
            ])
            .is_empty()
        );
    }
}
