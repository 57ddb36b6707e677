//! The operator's commands, as a process: what they print is what their schema says, and what they cannot do has its
//! exit code.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};

use ruyi::cmd::schemas;
use serde_json::Value;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use crate::support::program::settings_of_tests;

/// Somebody who runs ruyi against a cluster, from a data directory of their own.
pub struct Operator {
    dir: tempfile::TempDir,
    settings: Vec<String>,
}

impl Operator {
    /// At the cluster of these name servers.
    pub fn new(namesrv: &str) -> Self {
        Self::with(&[&format!("mq.namesrv={namesrv}")])
    }

    /// With these settings (`name=value`).
    pub fn with(settings: &[&str]) -> Self {
        let settings = settings.iter().map(|one| (*one).to_owned()).collect();
        Self { dir: tempfile::tempdir().unwrap(), settings }
    }

    /// Where ruyi keeps its files.
    pub fn data_dir(&self) -> PathBuf {
        self.dir().join("data")
    }

    /// For files of the test.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The command, not started: none of our environment, no terminal.
    pub fn command<S: AsRef<OsStr>>(&self, args: &[S]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ruyi"));
        for name in settings_of_tests() {
            command.env_remove(name);
        }
        command.args(args).current_dir(self.dir.path()).env("NO_COLOR", "1").env("COLUMNS", "100");
        command.arg("--set").arg(format!("data_dir={}", self.data_dir().display()));
        for setting in &self.settings {
            command.args(["--set", setting]);
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        command
    }

    /// `ruyi mq broker` on this data directory, as soon as it can be found; it ends when it is dropped.
    pub async fn embedded_broker(&self) -> tokio::process::Child {
        let broker = self.command(&["mq", "broker"]).stderr(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
        let found = self.data_dir().join("broker.addr");
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(120);
        while !found.exists() {
            assert!(std::time::Instant::now() < deadline, "no embedded broker");
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
        broker
    }

    pub async fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().await.unwrap()
    }

    /// With `input` on its stdin.
    pub async fn run_with(&self, args: &[&str], input: &[u8]) -> Output {
        let mut child = self.command(args).stdin(Stdio::piped()).spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let input = input.to_owned();
        // It may end before it has read everything.
        let write = tokio::spawn(async move { drop(stdin.write_all(&input).await) });
        let output = child.wait_with_output().await.unwrap();
        write.await.unwrap();
        output
    }

    /// The items that it prints as JSON; it must end with 0.
    #[track_caller]
    pub fn items(&self, args: &[&str]) -> impl Future<Output = Vec<Value>> {
        let at = std::panic::Location::caller();
        async move {
            let (code, items, stderr) = self.items_and_code(args).await;
            assert_eq!(code, 0, "{at}: ruyi {args:?}: {stderr}");
            items
        }
    }

    /// The items that it prints as JSON, each as the command's schema wants it, after the exit code and before what it
    /// says on stderr.
    pub async fn items_and_code(&self, args: &[&str]) -> (i32, Vec<Value>, String) {
        let output = self.run(&[args, &["--output", "json"]].concat()).await;
        let stderr = String::from_utf8(output.stderr).unwrap();
        let code = output.status.code().unwrap();
        if output.stdout.is_empty() {
            return (code, Vec::new(), stderr);
        }
        let document: Value = serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|error| panic!("ruyi {args:?}: {error}: {}", String::from_utf8_lossy(&output.stdout)));
        assert_eq!(document["version"], 1);
        let items = document["items"].as_array().unwrap().clone();
        as_promised(args, &items);
        (code, items, stderr)
    }

    /// What it says on stderr when it ends with `code`; it prints nothing on stdout.
    #[track_caller]
    pub fn refuses(&self, args: &[&str], code: i32) -> impl Future<Output = String> {
        let at = std::panic::Location::caller();
        async move {
            let output = self.run(args).await;
            let stderr = String::from_utf8(output.stderr).unwrap();
            assert_eq!(output.status.code(), Some(code), "{at}: ruyi {args:?}: {stderr}");
            assert!(output.stdout.is_empty(), "{at}: {}", String::from_utf8_lossy(&output.stdout));
            stderr
        }
    }
}

/// Fails unless each of `items` is what the schema of the command in `args` says.
pub fn as_promised(args: &[&str], items: &[Value]) {
    let line = args.join(" ");
    let of_command = |(name, _): &(&str, Value)| line == *name || line.starts_with(&format!("{name} "));
    let (name, schema) = schemas::all().into_iter().find(of_command).unwrap_or_else(|| panic!("no schema: {line}"));
    let validator = jsonschema::draft202012::new(&schema).unwrap();
    for item in items {
        let faults: Vec<String> =
            validator.iter_errors(item).map(|error| format!("{}: {error}", error.instance_path())).collect();
        assert!(faults.is_empty(), "{name}: {faults:?}: {item}");
        // What the schema does not know it does not promise.
        let known = fields(&schema, &schema);
        for field in item.as_object().unwrap().keys() {
            assert!(known.contains(field), "{name}: {field} is not in its schema: {item}");
        }
    }
}

/// The fields that a part of a schema names, also those of the types that it is made of.
fn fields(whole: &Value, part: &Value) -> BTreeSet<String> {
    if let Some(place) = part["$ref"].as_str().and_then(|place| place.strip_prefix('#')) {
        return fields(whole, whole.pointer(place).unwrap());
    }
    let own = part["properties"].as_object().into_iter().flat_map(|own| own.keys().cloned());
    let parts = part["allOf"].as_array().into_iter().flatten();
    own.chain(parts.flat_map(|part| fields(whole, part))).collect()
}

/// `value` with each field of `names` masked, for snapshots.
pub fn masked(mut value: Value, names: &[&str]) -> Value {
    for name in names {
        if let Some(field) = value.get_mut(*name).filter(|field| !field.is_null()) {
            *field = Value::String(format!("<{name}>"));
        }
    }
    value
}
