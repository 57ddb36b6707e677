//! The real program, run to its end as a client of roles that serve somewhere.

use std::io::Write;
use std::process::{Command, Output, Stdio};

/// `ruyi` with `args`, for the roles at `base`; nothing of this process's own configuration reaches it.
pub fn command(base: &str, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ruyi"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("RUYI_") {
            command.env_remove(name);
        }
    }
    for role in ["ORDER", "PAYMENT", "STOCK", "NOTIFY"] {
        command.env(format!("RUYI_CLIENT__{role}"), base);
    }
    command.env_remove("RUST_LOG").current_dir(std::env::temp_dir()).args(args);
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
