//! `ruyi mq dlq edit`: what was written is never lost, and what is stored is what the groups of its event can read.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use serde_json::{Value, json};

use crate::support::dead_letters::{import, journal, letter, paid};
use crate::support::operators::Operator;
use crate::support::servers::rocketmq::apache;
use crate::support::servers::unique;
use crate::support::waiting::eventually;

/// One dead letter.
struct Desk {
    operator: Operator,
    group: String,
    id: String,
}

impl Desk {
    async fn new() -> Option<Self> {
        let operator = Operator::new(&apache().await?.namesrv());
        let group = unique("edited-group");
        import(&operator, &letter(&group, 1, &paid(1))).await;
        let id = operator.items(&["mq", "dlq", "browse", &group]).await[0]["id"].as_str().unwrap().to_owned();
        Some(Self { operator, group, id })
    }

    fn args<'a>(&'a self, more: &[&'a str]) -> Vec<&'a str> {
        [&["mq", "dlq", "edit", &self.group, &self.id], more].concat()
    }

    /// Edits it with a shell script for an editor; $1 is the file.
    async fn write(&self, script: &str) -> (i32, String) {
        let output = self.operator.command(&self.args(&["--yes"])).env("EDITOR", self.editor(script)).output().await;
        let output = output.unwrap();
        (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
    }

    fn editor(&self, script: &str) -> PathBuf {
        let path = self.operator.dir().join("editor");
        std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    async fn shown(&self) -> Value {
        self.operator.items(&["mq", "dlq", "show", &self.group, &self.id]).await.remove(0)
    }

    fn drafts(&self) -> Vec<PathBuf> {
        let files = std::fs::read_dir(self.operator.data_dir().join("dlq")).unwrap();
        let files = files.map(|file| file.unwrap().path());
        files.filter(|path| path.to_string_lossy().ends_with(".draft.json")).collect()
    }

    /// Nothing is stored, and this is in the draft.
    async fn keeps(&self, text: &str) {
        let shown = self.shown().await;
        assert_eq!((&shown["mark"], &shown["editedBody"]), (&Value::Null, &Value::Null));
        assert_eq!(shown["body"]["payAmount"], 1);
        let draft = self.drafts().pop().unwrap();
        let draft = std::fs::read_to_string(draft).unwrap();
        assert!(draft.contains(text), "{draft}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fields_are_set_where_the_event_stays_one() {
    let Some(desk) = Desk::new().await else { return };
    let said = desk.operator.refuses(&desk.args(&["--field", "payAmount=many", "--yes"]), 1).await;
    assert!(said.contains("PAID_ORDER_SUCCESS") && said.contains("payAmount"), "{said}");
    desk.operator.refuses(&desk.args(&["--field", "no.such=1", "--yes"]), 2).await;
    let dry = desk.operator.items(&desk.args(&["--field", "payAmount=3", "--dry-run"])).await;
    assert_eq!(dry, [json!({"id": desk.id, "stored": false, "diff": ["- payAmount: 1", "+ payAmount: 3"]})]);
    assert_eq!(journal(&desk.operator).len(), 1);
    let stored = desk.operator.items(&desk.args(&["--field", "payAmount=3", "--reason", "he said so", "--yes"])).await;
    assert_eq!(stored, [json!({"id": desk.id, "stored": true, "diff": ["- payAmount: 1", "+ payAmount: 3"]})]);
    // From what was stored, on.
    let more = desk.operator.items(&desk.args(&["--field", "userId=\"8\"", "--yes"])).await;
    assert_eq!(more[0]["diff"], json!([r#"- userId: "7""#, r#"+ userId: "8""#]));
    let shown = desk.shown().await;
    assert_eq!((&shown["mark"], &shown["body"]["payAmount"]), (&json!("edited"), &json!(1)));
    assert_eq!((&shown["editedBody"]["payAmount"], &shown["editedBody"]["userId"]), (&json!(3), &json!("8")));
    let edit = &journal(&desk.operator)[1];
    assert_eq!((&edit["command"], &edit["reason"]), (&json!("mq dlq edit"), &json!("he said so")));
    assert_eq!(edit["what"]["diff"], json!(["- payAmount: 1", "+ payAmount: 3"]));
    // What goes out is what was stored; then it is too late to change it.
    desk.operator.items(&["mq", "dlq", "replay", &desk.group, "--watch", "0s", "--yes"]).await;
    let sent = ["mq", "messages", "query", &format!("%RETRY%{}", desk.group), "--key", "1000001", "--output", "jsonl"];
    // A broker's index by key comes a little later than the message.
    eventually("it is found", async || {
        let output = desk.operator.run(&sent).await;
        let sent: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        sent["body"] == shown["editedBody"]
    })
    .await;
    let said = desk.operator.refuses(&desk.args(&["--field", "payAmount=4", "--yes"]), 1).await;
    assert!(said.contains("replayed"), "{said}");
}

/// What its group would read is no fault, though the schema knows a stricter form; what is no JSON can be replaced whole.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn letters_are_judged_by_what_reads_them() {
    let Some(apache) = apache().await else { return };
    let operator = Operator::new(&apache.namesrv());
    let group = unique("judged-group");
    let odd = json!({"orderId": 1_000_001, "userId": 7, "payAmount": "1.00", "payTime": "2026-01-31T08:00:00+08:00"});
    import(&operator, &[letter(&group, 1, &odd.to_string()), letter(&group, 2, "<paid/>")].concat()).await;
    let mut letters = operator.items(&["mq", "dlq", "browse", &group]).await;
    letters.sort_by_key(|letter| letter["key"].as_str().unwrap().to_owned());
    let [readable, broken] = [&letters[0], &letters[1]].map(|letter| letter["id"].as_str().unwrap().to_owned());
    let fault = async |id: &str| operator.items(&["mq", "dlq", "show", &group, id]).await[0]["fault"].clone();
    assert_eq!(fault(&readable).await, Value::Null);
    assert!(fault(&broken).await.as_str().unwrap().contains("line 1"));

    operator.items(&["mq", "dlq", "edit", &group, &readable, "--field", "userId=8", "--yes"]).await;
    let replace = ["mq", "dlq", "edit", &group, &broken, "--body", "-", "--yes"];
    let output = operator.run_with(&replace, b"{}").await;
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(1) && said.contains("orderId") && said.contains("--no-check"), "{said}");
    let output = operator.run_with(&[&replace[..], &["--no-check"]].concat(), b"{}").await;
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    let mended = operator.dir().join("mended.json");
    std::fs::write(&mended, odd.to_string()).unwrap();
    operator.items(&["mq", "dlq", "edit", &group, &broken, "--body", mended.to_str().unwrap(), "--yes"]).await;
    assert_eq!(fault(&broken).await, Value::Null);

    // What somebody sends by hand is judged in the same way.
    operator.run(&["mq", "topics", "create", "PAID_ORDER_SUCCESS", "--queues", "2", "--yes"]).await;
    let send = ["mq", "messages", "send", "PAID_ORDER_SUCCESS", "--key", "1000001", "--dry-run", "--body"];
    let sent = operator.items(&[&send[..], &[&odd.to_string()]].concat()).await;
    assert_eq!(sent[0]["wouldSend"], 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_edit_that_is_interrupted_loses_nothing() {
    let Some(desk) = Desk::new().await else { return };
    // An editor that fails, one that leaves what is no JSON, and one that leaves what is no such event.
    let scripts = [
        ("sed -i 's/\"payAmount\": 1/\"payAmount\": 21/' \"$1\"; exit 3", "\"payAmount\": 21"),
        ("echo '{' >> \"$1\"", "{"),
        ("sed -i 's/^{$//; $ d' \"$1\"; printf '{ \"payAmount\": \"x\" }' > \"$1\"", "\"x\""),
    ];
    for (script, left) in scripts {
        let (code, said) = desk.write(script).await;
        assert_eq!(code, 1, "{said}");
        assert!(said.contains(desk.drafts()[0].to_str().unwrap()) && said.contains("nothing was stored"), "{said}");
        desk.keeps(left).await;
    }
    std::fs::remove_file(desk.drafts().pop().unwrap()).unwrap();

    // Killed while the editor is open, with some words written.
    let marker = desk.operator.dir().join("open");
    let script = format!(
        "sed -i 's/\"payAmount\": 1/\"payAmount\": 5/' \"$1\"; echo $$ > {}.new; mv {0}.new {0}; exec sleep 600",
        marker.display()
    );
    let mut child = desk.operator.command(&desk.args(&["--yes"])).env("EDITOR", desk.editor(&script)).spawn().unwrap();
    eventually("the editor is open", async || marker.exists()).await;
    child.kill().await.unwrap();
    let editor = std::fs::read_to_string(&marker).unwrap();
    assert!(std::process::Command::new("kill").arg(editor.trim()).status().unwrap().success());
    desk.keeps("\"payAmount\": 5").await;

    // It goes on with them; a line that another kill cut off costs nothing.
    let state = desk.operator.data_dir().join("dlq").join(format!("{}.jsonl", desk.group));
    std::fs::write(&state, b"{\"id\":\"a:0:0\",\"storedMs\":1,\"mark\":\"edi\xe5").unwrap();
    let (code, said) = desk.write("grep -q '\"payAmount\": 5' \"$1\" || exit 9").await;
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("going on with the text"), "{said}");
    let shown = desk.shown().await;
    assert_eq!((&shown["mark"], &shown["editedBody"]["payAmount"]), (&json!("edited"), &json!(5)));
    assert!(desk.drafts().is_empty());
    // Nothing written is nothing done.
    let lines = journal(&desk.operator).len();
    let (code, said) = desk.write("true").await;
    assert_eq!((code, journal(&desk.operator).len(), desk.drafts().len()), (0, lines, 0), "{said}");
    // A replay is under way: two do not write at once.
    let lock = desk.operator.data_dir().join("dlq").join(format!("{}.lock", desk.group));
    let held = std::fs::File::options().append(true).open(lock).unwrap();
    held.lock().unwrap();
    let said = desk.operator.refuses(&desk.args(&["--field", "payAmount=6", "--yes"]), 1).await;
    assert!(said.contains("another ruyi"), "{said}");
}
