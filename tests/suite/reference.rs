//! The reference says what the program says.

use std::fs;
use std::path::Path;
use std::process::Command;

use clap::CommandFactory as _;
use vaultberry::cli::Cli;

fn help(command: &str) -> String {
    let mut program = Command::new(env!("CARGO_BIN_EXE_vaultberry"));
    let output = program.args(command.split(' ').skip(1)).arg("--help").output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// The commands that do something, by their full names.
fn commands(command: &clap::Command, above: &str) -> Vec<String> {
    let name = format!("{above} {}", command.get_name()).trim_start().to_owned();
    let below: Vec<String> = (command.get_subcommands())
        .filter(|below| !below.is_hide_set() && below.get_name() != "help")
        .flat_map(|below| commands(below, &name))
        .collect();
    if below.is_empty() { vec![name] } else { below }
}

#[test]
fn the_command_reference_quotes_the_help() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/reference/commands.md");
    let page = fs::read_to_string(page).unwrap();
    let sections: Vec<&str> = page.split("\n## ").skip(1).collect();
    let named: Vec<&str> = sections.iter().map(|section| section.lines().next().unwrap()).collect();
    for command in commands(&Cli::command(), "") {
        assert!(named.contains(&command.as_str()), "{command} isn't in the reference");
    }
    for section in sections {
        let command = section.lines().next().unwrap();
        let quoted = section.split("```text\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
        let help = help(command);
        assert_eq!(quoted.trim_end(), help.trim_end(), "{command}");
        assert!(help.lines().all(|line| line.chars().count() <= 80), "{command}: its help is wider than 80 columns");
    }
}

/// The text of every file of Rust below a folder.
fn sources(folder: &Path) -> String {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let texts = entries.map(|path| match path.extension() {
        _ if path.is_dir() => sources(&path),
        Some(end) if end == "rs" => fs::read_to_string(&path).unwrap(),
        _ => String::new(),
    });
    texts.collect()
}

#[test]
fn each_test_that_the_threat_model_names_is_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let code = sources(&root.join("tests")) + &sources(&root.join("src"));
    let page = fs::read_to_string(root.join("docs/concepts/threat-model.md")).unwrap();
    let rows = page.lines().filter(|line| line.starts_with("| **"));
    let named: Vec<&str> = rows.flat_map(|row| row.rsplit('|').nth(1).unwrap().split('`').skip(1).step_by(2)).collect();
    assert!(named.len() > 15, "{named:?}");
    for name in named {
        assert!(code.contains(&format!("fn {name}()")), "there is no test {name}");
    }
}
