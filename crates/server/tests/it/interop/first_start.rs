//! The first minutes of somebody who just built the program.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// Kills the server with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

/// Starts the server on a free port; answers it and what it prints, up to the end of the steps.
fn start(directory: &Path) -> (Running, String) {
    let config = "[[listeners]]\naddress = \"127.0.0.1:0\"\n";
    std::fs::write(directory.join("myelin.toml"), config).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_myelin"));
    command
        .args(["serve", "--config", "myelin.toml"])
        .current_dir(directory);
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let output = BufReader::new(child.stdout.take().unwrap());
    let mut text = String::new();
    for line in output.lines() {
        text += &line.unwrap();
        text.push('\n');
        if text.contains("as the homeserver to any Matrix client") {
            break;
        }
    }
    (Running(child), text)
}

/// The lines that a person is told to enter.
fn steps(text: &str) -> String {
    let is_step = |line: &&str| {
        ["ACCESS_TOKEN=", "ROOM=", "curl "]
            .iter()
            .any(|start| line.starts_with(start))
    };
    text.lines().filter(is_step).collect::<Vec<_>>().join("\n")
}

#[test]
fn the_printed_steps_end_with_a_message_in_a_room() {
    let directory = tempfile::tempdir().unwrap();
    let (_running, text) = start(directory.path());
    let steps = steps(&text);
    assert_eq!(steps.lines().count(), 3, "{text}");
    let output = Command::new("sh").args(["-euc", &steps]).output().unwrap();
    let answer: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    assert!(answer["event_id"].is_string(), "{text}{output:?}");

    // The token was good once.
    let again = Command::new("sh")
        .args(["-uc", &steps.replace("alice", "mallory")])
        .output()
        .unwrap();
    let answer: serde_json::Value = serde_json::from_slice(&again.stdout).unwrap_or_default();
    assert!(answer["event_id"].is_null(), "{again:?}");
}
