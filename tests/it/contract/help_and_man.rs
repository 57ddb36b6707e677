//! What the command line says about itself: examples, completion, manual pages.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use clap::CommandFactory;
use ruyi::cmd::Cli;

fn ruyi(args: &[&str]) -> Output {
    // They work beside a configuration that is wrong.
    let mut command = Command::new(env!("CARGO_BIN_EXE_ruyi"));
    command.args(args).env("RUYI_CONFIG", "/nowhere/ruyi.toml").output().unwrap()
}

fn printed(args: &[&str]) -> String {
    let output = ruyi(args);
    assert_eq!(output.status.code(), Some(0), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Every command line without a subcommand below it, by its words.
fn leaves(command: &clap::Command, path: &[String], found: &mut Vec<(Vec<String>, clap::Command)>) {
    if command.get_subcommands().next().is_none() {
        found.push((path.to_owned(), command.clone()));
    }
    for sub in command.get_subcommands() {
        leaves(sub, &[path, &[sub.get_name().to_owned()]].concat(), found);
    }
}

/// The command lines of ruyi in an example: `a | ruyi b -` has one.
fn command_lines(example: &str) -> Vec<Vec<String>> {
    let words = shlex::split(example).unwrap_or_else(|| panic!("no shell would read {example}"));
    let ends = |word: &String| ["|", "&&", ";", ">", "<", ">>"].contains(&word.as_str());
    words.split(ends).filter(|part| part.first().is_some_and(|word| word == "ruyi")).map(<[String]>::to_vec).collect()
}

#[test]
fn every_command_has_examples_that_it_takes() {
    let mut all = Vec::new();
    leaves(&Cli::command(), &[], &mut all);
    let mut faults = Vec::new();
    for (path, command) in all {
        let help = command.get_after_long_help().or(command.get_after_help()).map(ToString::to_string);
        let help = help.unwrap_or_default();
        // They stand indented below "Examples:"; a long one goes on after a backslash.
        let joined = help.replace("\\\n", " ");
        let examples: Vec<&str> = joined.lines().filter_map(|line| line.strip_prefix("  ")).collect();
        let mut own = false;
        for line in examples.iter().flat_map(|example| command_lines(example)) {
            own |= line[1..].starts_with(&path);
            if let Err(error) = Cli::command().try_get_matches_from(&line) {
                faults.push(format!("{}, in the help of {}: {}", line.join(" "), path.join(" "), error.kind()));
            }
        }
        if !own {
            faults.push(format!("the help of {} has no example of itself", path.join(" ")));
        }
    }
    assert!(faults.is_empty(), "{faults:#?}");
}

/// The lines of the shell examples in a document.
fn shell_lines(document: &str) -> Vec<&str> {
    document.split("```sh\n").skip(1).filter_map(|rest| rest.split("```").next()).flat_map(str::lines).collect()
}

/// The commands with options in running text, between backticks; not those that stand for several (`mq tx stuck|resume`).
fn inline_commands(document: &str) -> impl Iterator<Item = &str> {
    let text = document.split("```").step_by(2);
    let code = text.flat_map(|text| text.split('`').skip(1).step_by(2));
    code.filter(|code| {
        code.starts_with("ruyi ") && code.contains(" --") && !code.contains(['|', '[', '\n']) && !code.contains("...")
    })
}

/// Every document that people write and read, as a path.
fn documents() -> Vec<PathBuf> {
    let top = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    for folder in [".", "docs", "docs/subjects", "docs/decisions", "migrations"] {
        let files = std::fs::read_dir(top.join(folder)).unwrap().map(|file| file.unwrap().path());
        found.extend(files.filter(|path| path.extension().is_some_and(|end| end == "md")));
    }
    assert!(found.len() > 40, "{found:?}");
    found
}

#[test]
fn links_between_documents_lead_somewhere() {
    let mut faults = Vec::new();
    for path in documents() {
        let text = std::fs::read_to_string(&path).unwrap();
        // What stands in a block of code is no link.
        for part in text.split("```").step_by(2) {
            for link in part.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
                let file = link.split('#').next().unwrap();
                if !link.starts_with("http") && !path.parent().unwrap().join(file).exists() {
                    faults.push(format!("{}: {link}", path.display()));
                }
            }
        }
    }
    assert!(faults.is_empty(), "{faults:#?}");
}

#[test]
fn commands_in_the_documents_are_commands() {
    let top = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut faults = Vec::new();
    for path in documents() {
        let name = path.strip_prefix(top).unwrap().display();
        // A long one goes on after a backslash.
        let text = std::fs::read_to_string(&path).unwrap().replace("\\\n", " ");
        let blocks = shell_lines(&text);
        for line in blocks.into_iter().chain(inline_commands(&text)).flat_map(command_lines) {
            if let Err(error) = Cli::command().try_get_matches_from(&line) {
                faults.push(format!("{name}: {}: {}", line.join(" "), error.kind()));
            }
        }
    }
    assert!(faults.is_empty(), "{faults:#?}");
}

#[test]
fn bash_completes_commands_and_options() {
    let dir = tempfile::tempdir().unwrap();
    let script = dir.path().join("ruyi.bash");
    std::fs::write(&script, printed(&["completion", "bash"])).unwrap();
    let complete = |words: &[&str]| -> BTreeSet<String> {
        let current = words.last().unwrap();
        let previous = words[words.len() - 2];
        let quoted: Vec<String> = words.iter().map(|word| format!("\"{word}\"")).collect();
        let line = format!(
            "source {}; COMP_WORDS=({}); COMP_CWORD={}; _ruyi ruyi \"{current}\" \"{previous}\"; printf '%s\\n' \"${{COMPREPLY[@]}}\"",
            script.display(),
            quoted.join(" "),
            words.len() - 1,
        );
        let output = Command::new("bash").args(["--norc", "-c", &line]).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
    };
    assert_eq!(complete(&["ruyi", "mq", "d"]), BTreeSet::from(["dlq".to_owned()]));
    assert!(complete(&["ruyi", "mq", "offsets", "reset", "--"]).is_superset(&BTreeSet::from([
        "--dry-run".to_owned(),
        "--to".to_owned(),
        "--yes".to_owned()
    ])));
    for shell in ["zsh", "fish"] {
        assert!(printed(&["completion", shell]).contains("offsets"), "{shell}");
    }
    assert_eq!(ruyi(&["completion", "tcsh"]).status.code(), Some(2));
}

#[test]
fn every_command_has_a_manual_page() {
    let page = printed(&["man"]);
    assert!(page.contains(".TH ruyi 1") && page.contains("Exit codes"), "{page}");
    assert!(printed(&["man", "mq", "dlq", "replay"]).contains(".TH ruyi-mq-dlq-replay 1"));
    let output = ruyi(&["man", "mq", "nothing"]);
    assert_eq!((output.status.code(), output.stdout.is_empty()), (Some(2), true));

    let dir = tempfile::tempdir().unwrap();
    let pages = dir.path().join("man1");
    assert_eq!(printed(&["man", "--dir", pages.to_str().unwrap()]), "");
    let mut all = Vec::new();
    leaves(&Cli::command(), &[], &mut all);
    for (path, _) in all {
        let page = pages.join(format!("ruyi-{}.1", path.join("-")));
        assert!(page.exists(), "{}", page.display());
    }
}
