//! The real program, run to its end as a client of roles that serve somewhere.

use std::ffi::OsString;
use std::io::Write;
use std::process::{Command, Output, Stdio};

/// The settings that this process was given: `RUYI_...` for the tests, most of which the program would refuse, and
/// `RUST_LOG`.
pub fn settings_of_tests() -> Vec<OsString> {
    let names = std::env::vars_os().map(|(name, _)| name);
    let is_setting = |name: &str| name.starts_with("RUYI_") || name == "RUST_LOG";
    names.filter(|name| is_setting(&name.to_string_lossy())).collect()
}

/// `env` without them, to be followed by a program and its arguments.
pub fn plain_environment() -> Vec<OsString> {
    let without = settings_of_tests().into_iter().flat_map(|name| ["-u".into(), name]);
    std::iter::once("env".into()).chain(without).collect()
}

/// The program, or the one that `RUYI_TEST_PROGRAM` names.
pub fn program() -> OsString {
    std::env::var_os("RUYI_TEST_PROGRAM").unwrap_or_else(|| env!("CARGO_BIN_EXE_ruyi").into())
}

/// `ruyi` with `args`, for the roles at `base`; nothing of this process's own configuration reaches it.
pub fn command(base: &str, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ruyi"));
    for name in settings_of_tests() {
        command.env_remove(name);
    }
    for role in ["ORDER", "PAYMENT", "STOCK", "NOTIFY"] {
        command.env(format!("RUYI_CLIENT__{role}"), base);
    }
    command.current_dir(std::env::temp_dir()).args(args);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Runs it to its end with this input.
pub async fn ruyi(base: &str, args: &[&str], input: &str) -> Output {
    let (mut child, input) = (command(base, args).spawn().unwrap(), input.to_owned());
    let run = tokio::task::spawn_blocking(move || {
        let mut stdin = child.stdin.take().unwrap();
        // A command that refuses its arguments does not read.
        let writer = std::thread::spawn(move || drop(stdin.write_all(input.as_bytes())));
        let output = child.wait_with_output().unwrap();
        writer.join().unwrap();
        output
    });
    run.await.unwrap()
}
