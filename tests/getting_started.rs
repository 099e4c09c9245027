//! Every command of docs/getting-started.md, in order, on a real server: what it answers is what the page says.

#![allow(clippy::unwrap_used, clippy::panic, reason = "what fails here fails the test")]

mod harness;

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use harness::{Postgres, free_port};
use pgweir::net::now;

/// What stands between the fences of a page's blocks of this kind.
fn blocks<'p>(page: &'p str, kind: &str) -> Vec<&'p str> {
    let fence = format!("\n```{kind}\n");
    let block = |rest: &'p str| rest.split_once("\n```").unwrap_or_else(|| panic!("a block of {kind} does not end")).0;
    page.split(fence.as_str()).skip(1).map(block).collect()
}

/// The commands of a page with what each answers.
fn commands(page: &str) -> Vec<(String, Vec<String>)> {
    let mut commands: Vec<(String, Vec<String>)> = Vec::new();
    for line in blocks(page, "console").into_iter().flat_map(str::lines) {
        match line.strip_prefix("$ ") {
            Some(command) => commands.push((command.to_owned(), Vec::new())),
            None => commands.last_mut().unwrap().1.push(line.to_owned()),
        }
    }
    commands
}

#[tokio::test]
async fn every_command_of_the_page_answers_what_it_says() {
    let pg = Postgres::start().await;
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/getting-started.md")).unwrap();
    let (door, numbers) = (free_port(), free_port());
    let here = |text: &str| text.replace("6432", &door.to_string()).replace("9632", &numbers.to_string());
    let folder = tempfile::tempdir().unwrap();
    let [toml] = blocks(&page, "toml").try_into().unwrap();
    fs::write(folder.path().join("pgweir.toml"), here(toml).replace("port = 5432", &format!("port = {}", pg.port())) + "\n").unwrap();

    let commands = commands(&page);
    assert!(commands.len() > 15, "{commands:?}");
    // Job control, for `kill %1`; each command's end is told with its exit status.
    let mut script = String::from("set -m\nexec 2>&1\n");
    for (at, (command, _)) in commands.iter().enumerate() {
        writeln!(script, "{}\necho \"@ {at} $?\"", here(command)).unwrap();
    }
    let program = Path::new(env!("CARGO_BIN_EXE_pgweir")).parent().unwrap();
    let path = format!("{}:{}", program.display(), std::env::var("PATH").unwrap());
    let mut bash = Command::new("bash");
    bash.args(["-c", &script]).current_dir(folder.path()).env("PATH", path).env("PGSSLMODE", "disable").stdin(Stdio::null());
    let began = now();
    let ran = tokio::task::spawn_blocking(move || bash.output().unwrap());
    let output = tokio::time::timeout(Duration::from_mins(1), ran).await.expect("the commands of the page take a minute").unwrap();
    println!("the whole page took {:.1?}", now() - began);

    let said = String::from_utf8(output.stdout).unwrap();
    let mut rest = said.as_str();
    for (at, (command, expected)) in commands.iter().enumerate() {
        let (answer, after) = rest.split_once(&format!("@ {at} ")).unwrap_or_else(|| panic!("no end of `{command}` in:\n{said}"));
        // What the shell says of its jobs is not an answer.
        let answer: Vec<&str> = answer.lines().filter(|line| !line.starts_with('[')).collect();
        assert_eq!(answer, *expected, "`{command}`\n{said}");
        rest = after.split_once('\n').unwrap().1;
    }
}
