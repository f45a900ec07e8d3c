//! `cargo xtask requirements`: does each requirement that claims to be held by tests hold?
//!
//! `docs/requirements.md` names the tests that hold a requirement, as `crate::path::of::test`
//! (`core::receive::tests::…`, `server::it::interop::…`). The report is the JUnit file which
//! nextest writes under its profile `ci`. A named test must have run and passed. So must those that
//! `docs/attacks.md` names.

use std::collections::BTreeMap;
use std::path::Path;

/// Where nextest puts the report, relative to the workspace.
pub(crate) const DEFAULT_REPORT: &str = "target/nextest/ci/junit.xml";

const LIST: &str = "docs/requirements.md";

/// A table whose last column names tests.
const ATTACKS: &str = "docs/attacks.md";

/// One entry of the list.
#[derive(Debug, PartialEq, Eq)]
struct Requirement {
    /// Its number: 1 for R1.
    number: u32,
    /// The line of the list on which it begins.
    line: usize,
    section: String,
    tests: Vec<String>,
}

/// How a test ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Passed,
    Failed,
}

/// Compares the list with the report and prints what is held.
pub(crate) fn run(root: &Path, report: &Path) -> Result<(), String> {
    let list = read(&root.join(LIST))?;
    let requirements = parse_list(&list)?;
    let outcomes = parse_report(&read(report)?)?;
    let of_list = compare(&requirements, &outcomes);
    let of_attacks = compare_table(&read(&root.join(ATTACKS))?, &outcomes);
    print!("{}", table(&requirements));
    let of_list = of_list
        .iter()
        .map(|complaint| format!("{LIST}:{complaint}"));
    let of_attacks = of_attacks
        .iter()
        .map(|complaint| format!("{ATTACKS}:{complaint}"));
    let complaints: Vec<String> = of_list.chain(of_attacks).collect();
    for complaint in &complaints {
        println!("{complaint}");
    }
    match complaints.len() {
        0 => Ok(()),
        count => Err(format!(
            "requirements: {count} named tests do not hold what they are named for"
        )),
    }
}

fn read(path: &Path) -> Result<String, String> {
    std::fs::read_to_string(path).map_err(|why| format!("{}: {why}", path.display()))
}

/// Reads `- **R12** words …` entries and the `tests:` line of each.
fn parse_list(text: &str) -> Result<Vec<Requirement>, String> {
    let mut requirements: Vec<Requirement> = Vec::new();
    let mut section = String::new();
    let mut answered = true;
    for (index, line) in text.lines().enumerate() {
        let line_number = index + 1;
        let failed = |why: &str| Err(format!("{LIST}:{line_number}: {why}"));
        if let Some(title) = line.strip_prefix("## ") {
            title.clone_into(&mut section);
        } else if let Some(rest) = line.strip_prefix("- **R") {
            let number = rest
                .split("**")
                .next()
                .and_then(|number| number.parse().ok());
            let expected = requirements.len() as u32 + 1;
            if number != Some(expected) {
                return failed(&format!("expected R{expected}"));
            }
            if !answered {
                return failed("the requirement before this one has no `tests:` line");
            }
            answered = false;
            let entry = Requirement {
                number: expected,
                line: line_number,
                section: section.clone(),
                tests: Vec::new(),
            };
            requirements.push(entry);
        } else if let Some(rest) = line.trim_start().strip_prefix("tests:") {
            let Some(last) = requirements.last_mut() else {
                return failed("`tests:` before the first requirement");
            };
            answered = true;
            last.tests = rest
                .split('`')
                .skip(1)
                .step_by(2)
                .map(str::to_owned)
                .collect();
            if last.tests.is_empty() != (rest.trim() == "not yet") {
                return failed("expected `tests: not yet`, or names of tests in backquotes");
            }
        }
    }
    if !answered {
        return Err(format!("{LIST}: the last requirement has no `tests:` line"));
    }
    Ok(requirements)
}

/// Reads which tests ran and how they ended. nextest's suite is the test binary
/// (`myelin-server::it`), its case the path of the test within it.
fn parse_report(text: &str) -> Result<BTreeMap<String, Outcome>, String> {
    let document =
        roxmltree::Document::parse(text).map_err(|why| format!("the JUnit report: {why}"))?;
    let mut outcomes = BTreeMap::new();
    for case in document
        .descendants()
        .filter(|node| node.has_tag_name("testcase"))
    {
        let binary = case.attribute("classname").unwrap_or_default();
        let binary = binary.strip_prefix("myelin-").unwrap_or(binary);
        let name = format!("{binary}::{}", case.attribute("name").unwrap_or_default());
        let ended = |tag: &str| case.children().any(|child| child.has_tag_name(tag));
        if !ended("skipped") {
            let failed = ended("failure") || ended("error");
            outcomes.insert(
                name,
                if failed {
                    Outcome::Failed
                } else {
                    Outcome::Passed
                },
            );
        }
    }
    Ok(outcomes)
}

/// One line for each named test that did not run, or did not pass.
fn compare(requirements: &[Requirement], outcomes: &BTreeMap<String, Outcome>) -> Vec<String> {
    let mut complaints = Vec::new();
    for requirement in requirements {
        for test in &requirement.tests {
            if let Some(what) = wrong(test, outcomes) {
                complaints.push(format!(
                    "{}: R{}: {test} {what}",
                    requirement.line, requirement.number
                ));
            }
        }
    }
    complaints
}

/// What is wrong with a named test.
fn wrong(test: &str, outcomes: &BTreeMap<String, Outcome>) -> Option<&'static str> {
    match outcomes.get(test) {
        Some(Outcome::Passed) => None,
        Some(Outcome::Failed) => Some("failed"),
        None => Some("did not run"),
    }
}

/// The same for the tests that the last column of a table names; each of its rows must name some.
fn compare_table(text: &str, outcomes: &BTreeMap<String, Outcome>) -> Vec<String> {
    let mut complaints = Vec::new();
    let rows = text.lines().enumerate();
    let rows = rows.filter(|(_, line)| line.starts_with('|'));
    // Below its head and the line under that.
    for (index, row) in rows.skip(2) {
        let line = index + 1;
        let cells = row.trim_end().trim_end_matches('|');
        let last = cells.rsplit('|').next().unwrap_or_default();
        let tests: Vec<&str> = last.split('`').skip(1).step_by(2).collect();
        if tests.is_empty() {
            complaints.push(format!("{line}: no test is named"));
        }
        for test in tests {
            if let Some(what) = wrong(test, outcomes) {
                complaints.push(format!("{line}: {test} {what}"));
            }
        }
    }
    complaints
}

/// How many requirements of each section are held by tests.
fn table(requirements: &[Requirement]) -> String {
    let mut sections: BTreeMap<u32, (&str, Vec<&Requirement>)> = BTreeMap::new();
    let mut first = 0;
    for requirement in requirements {
        if sections
            .get(&first)
            .is_none_or(|(section, _)| *section != requirement.section)
        {
            first = requirement.number;
        }
        sections
            .entry(first)
            .or_insert((&requirement.section, Vec::new()))
            .1
            .push(requirement);
    }
    let mut text = String::from(
        "requirements held by tests that passed, and the numbers that are not held yet\n",
    );
    for (section, members) in sections.values() {
        let open: Vec<String> = members
            .iter()
            .filter(|member| member.tests.is_empty())
            .map(|member| format!(" R{}", member.number))
            .collect();
        let held = members.len() - open.len();
        text.push_str(&format!(
            "{section:32} {held:4} of {:4} {}\n",
            members.len(),
            open.concat()
        ));
    }
    let held = requirements
        .iter()
        .filter(|requirement| !requirement.tests.is_empty())
        .count();
    text.push_str(&format!(
        "{:32} {held:4} of {:4}\n",
        "all",
        requirements.len()
    ));
    text
}

#[cfg(test)]
mod tests {
    use super::{Outcome, compare, compare_table, parse_list, parse_report, table};

    const LIST: &str = "\
# Requirements
## Format
- **R1** Large events are refused,
  always.
  tests: `core::event::tests::large`, `server::it::interop::join::v12`
- **R2** Names are short.
  tests: not yet
";

    const REPORT: &str = r#"<?xml version="1.0" encoding="UTF-8"?>
<testsuites name="nextest-run" tests="3"><testsuite name="myelin-core">
<testcase name="event::tests::large" classname="myelin-core" time="0.1"></testcase></testsuite>
<testsuite name="myelin-server::it">
<testcase name="interop::join::v12" classname="myelin-server::it" time="0.1"><failure message="m" type="t">x</failure></testcase>
<testcase name="interop::join::v11" classname="myelin-server::it"><skipped/></testcase></testsuite></testsuites>"#;

    #[test]
    fn the_list_is_read() {
        let requirements = parse_list(LIST).unwrap();
        assert_eq!(requirements.len(), 2);
        assert_eq!(
            requirements[0].tests,
            [
                "core::event::tests::large",
                "server::it::interop::join::v12"
            ]
        );
        assert_eq!(
            (requirements[0].line, requirements[0].section.as_str()),
            (3, "Format")
        );
        assert!(requirements[1].tests.is_empty());
    }

    #[test]
    fn a_list_with_a_gap_or_without_an_answer_is_refused() {
        assert!(
            parse_list("- **R2** Second.\n  tests: not yet\n")
                .unwrap_err()
                .contains("expected R1")
        );
        assert!(
            parse_list("- **R1** First.\n")
                .unwrap_err()
                .contains("no `tests:` line")
        );
        assert!(parse_list("- **R1** First.\n- **R2** Second.\n  tests: not yet\n").is_err());
        assert!(parse_list("- **R1** First.\n  tests: surely\n").is_err());
    }

    #[test]
    fn a_named_test_must_have_run_and_passed() {
        let outcomes = parse_report(REPORT).unwrap();
        assert_eq!(
            outcomes.get("core::event::tests::large"),
            Some(&Outcome::Passed)
        );
        assert_eq!(
            outcomes.get("server::it::interop::join::v12"),
            Some(&Outcome::Failed)
        );
        assert_eq!(outcomes.get("server::it::interop::join::v11"), None);
        let mut requirements = parse_list(LIST).unwrap();
        requirements[1]
            .tests
            .push("core::event::tests::removed".to_owned());
        let complaints = compare(&requirements, &outcomes);
        assert_eq!(
            complaints,
            [
                "3: R1: server::it::interop::join::v12 failed",
                "6: R2: core::event::tests::removed did not run"
            ]
        );
    }

    #[test]
    fn each_row_of_a_table_names_tests_that_passed() {
        let outcomes = parse_report(REPORT).unwrap();
        let text = "\
# Attacks

| the attack | tests |
|---|---|
| `large` events | `core::event::tests::large` |
| joins | `core::event::tests::large`, `server::it::interop::join::v12` |
| leaves | `core::event::tests::removed` |
| others | none |
";
        assert_eq!(
            compare_table(text, &outcomes),
            [
                "6: server::it::interop::join::v12 failed",
                "7: core::event::tests::removed did not run",
                "8: no test is named"
            ]
        );
    }

    #[test]
    fn the_table_counts_by_section() {
        let text = table(&parse_list(LIST).unwrap());
        assert!(text.contains("   1 of    2  R2"), "{text}");
    }

    /// The list in the tree can be read, and is complete.
    #[test]
    fn the_real_list_holds_all_numbers() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/requirements.md");
        assert_eq!(
            parse_list(&std::fs::read_to_string(path).unwrap())
                .unwrap()
                .len(),
            150
        );
    }
}
