//! The jars of Apache RocketMQ and of its Java client, and how Java runs what is in them.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use super::{installed, skipped};

const VERSION: &str = "5.4.0";

/// Small and quick to start rather than fast. Each start of a server would make a certificate of its own otherwise,
/// which takes most of its time; a plan that wants TLS says so after these.
const JVM: &[&str] = &["-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xshare:auto", "-Dtls.server.mode=disabled"];

/// What `scripts/fetch-rocketmq` has put into a cache folder.
pub struct Jars {
    home: PathBuf,
    /// All of them in the order of their names, as in the archive of their classes.
    class_path: OsString,
}

impl Jars {
    /// `None` where they, or a Java runtime, are missing.
    pub fn find() -> Option<Self> {
        if !installed("java") {
            return None;
        }
        let cache = std::env::var_os("RUYI_CACHE").map(PathBuf::from);
        let cache = cache.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache/ruyi")))?;
        let home = cache.join(format!("rocketmq-{VERSION}"));
        if !home.join("complete").exists() {
            skipped("Apache RocketMQ is not there: run scripts/fetch-rocketmq");
            return None;
        }
        let files = std::fs::read_dir(home.join("lib")).unwrap().map(|entry| entry.unwrap().path());
        let mut jars: Vec<_> = files.filter(|path| path.extension().is_some_and(|kind| kind == "jar")).collect();
        jars.sort();
        let class_path = std::env::join_paths(jars).unwrap();
        Some(Self { home, class_path })
    }

    /// For `-cp`.
    pub fn class_path(&self) -> &OsStr {
        &self.class_path
    }

    /// A Java command up to the name of the class to run; `options` of the virtual machine count more than the usual
    /// ones. Classes of the test's own are in `classes`.
    pub fn java<O: AsRef<OsStr>>(&self, options: impl IntoIterator<Item = O>, classes: Option<&Path>) -> Vec<OsString> {
        let mut command: Vec<OsString> = vec!["java".into()];
        command.extend(JVM.iter().map(OsString::from));
        // It is ignored when it is missing, or of another Java.
        let mut archive = OsString::from("-XX:SharedArchiveFile=");
        archive.push(self.home.join("classes.jsa"));
        command.push(archive);
        command.extend(options.into_iter().map(|option| option.as_ref().to_owned()));
        let mut class_path = self.class_path.clone();
        if let Some(classes) = classes {
            class_path.push(":");
            class_path.push(classes);
        }
        command.extend(["-cp".into(), class_path]);
        command
    }
}
